// A classic script in the head: while the modules of the page load, it asks for the data that the
// page shows first, and loads the module that only this page has. `ask` takes the answer.
{
  const FIRST = {
    "/": ["overview", "/api/status"],
    "/log": ["log"],
    "/signals": ["signals", "/api/signals?limit=50"],
    "/outcomes": ["outcomes", "/api/outcomes"],
    "/delivery": ["delivery", "/api/status"],
  };
  const [name, path] = FIRST[location.pathname] ?? [];
  const search = new URLSearchParams(location.search);
  if (name) {
    const link = document.createElement("link");
    link.rel = "modulepreload";
    link.href = `/static/${name}.js`;
    document.head.append(link);
  }
  // The page asks for dates in another form.
  if (path && !search.has("since") && !search.has("until")) {
    const url = new URL(path, location.href);
    for (const [key, value] of search) if (value) url.searchParams.set(key, value);
    url.searchParams.sort();
    const address = url.pathname + url.search;
    const response = fetch(address, {
      headers: { accept: "application/json" },
      cache: "no-store",
    });
    response.catch(() => {}); // `ask` reports it
    globalThis.firstAnswer = { address, response };
  }
}
