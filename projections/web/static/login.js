// The login page: sends the password as JSON, as every action of the console is sent.
const note = document.querySelector("#note");
const password = document.querySelector("#password");

const REFUSALS = {
  401: "This is not the password.",
  403: "This console has no password: open the address that eventlog web printed at its start.",
  429: "Too many attempts. Wait a minute.",
};

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
  note.textContent = answer
    ? (REFUSALS[answer.status] ?? `The console answered ${answer.status}.`)
    : "The console does not answer.";
  password.select();
});
