// Keeps the part of the page that others change up to date; what is being typed stays. The page may
// be the answer to a form: it says itself where it comes from.
"use strict";
const live = document.getElementById("live");
async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch(live.dataset.from, { headers: { accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const now = page.getElementById("live");
    if (now && now.innerHTML !== live.innerHTML) live.replaceChildren(...now.childNodes);
  } catch {
    // The next look tries again.
  }
}
setInterval(look, 2000);
document.addEventListener("visibilitychange", look);
