(() => {
  const now = Date.now();
  const age = s => s < 60 ? s + "s" : s < 3600 ? Math.floor(s / 60) + "m"
    : s < 86400 ? Math.floor(s / 3600) + "h " + Math.floor(s % 3600 / 60) + "m"
    : Math.floor(s / 86400) + "d " + Math.floor(s % 86400 / 3600) + "h";
  for (const time of document.querySelectorAll("time[data-age]")) {
    const seconds = Math.max(0, Math.floor((now - Date.parse(time.dateTime)) / 1000));
    if (Number.isFinite(seconds)) time.append(" (" + age(seconds) + " ago)");
  }
  for (const old of document.querySelectorAll("[data-old-after]")) {
    if (now < Date.parse(old.dataset.oldAfter)) continue;
    old.hidden = false;
    old.closest(".verdict").classList.replace("good", "warn");
  }
})();
