// The login page: sends the password as JSON, as every action of the console is sent.
import { sentence } from "./format.js";

const note = document.querySelector("#note");
const password = document.querySelector("#password");

document.querySelector("#login").addEventListener("submit", async (event) => {
  event.preventDefault();
  note.textContent = "";
  const answer = await fetch("/login", {
    method: "POST",
    headers: { "content-type": "application/json", "x-eventlog": "1" },
    body: JSON.stringify({ password: password.value }),
  }).catch(() => null);
  if (answer?.ok) {
    location.replace("/");
    return;
  }
  const { error, do: todo } = (await answer?.json().catch(() => null)) ?? {};
  note.textContent = error
    ? [error, todo].map(sentence).filter(Boolean).join(" ")
    : "The console does not answer.";
  password.select();
});
