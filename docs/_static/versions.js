// Offers the versions that versions.json, beside their folders, lists with their pages.
(async () => {
  const select = document.getElementById("version");
  const root = new URL(document.documentElement.dataset.content_root, location.href);
  const shown = select.value;
  const page = location.pathname.slice(root.pathname.length) || "index.html";
  const versions = await (await fetch(new URL("../versions.json", root))).json();
  select.replaceChildren(...Object.keys(versions).map((each) => new Option(each, each, false, each === shown)));
  select.addEventListener("change", () => {
    const there = versions[select.value].includes(page) ? page + location.hash : "index.html";
    location.assign(new URL(`../${select.value}/${there}`, root));
  });
  // a page that the browser takes back out of its memory still shows what was chosen there
  addEventListener("pageshow", () => (select.value = shown));
})();
