"use strict";
(() => {
  const tip = document.getElementById("tip");
  let told = null, pinned = false;
  const teller = (target) => target instanceof Element ? target.closest("[data-tip]") : null;
  const hide = () => {
    told = null;
    pinned = false;
    tip.hidden = true;
    tip.classList.remove("pinned");
    document.querySelectorAll(".same").forEach((e) => e.classList.remove("same"));
  };
  // Beside what it tells of, within the window.
  const place = () => {
    const from = told.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const below = from.bottom + 8 + size.height < innerHeight;
    tip.style.left = Math.max(4, Math.min(from.left, innerWidth - size.width - 8)) + "px";
    tip.style.top = Math.max(4, below ? from.bottom + 8 : from.top - size.height - 8) + "px";
  };
  // Names are text, never markup.
  const show = (element) => {
    hide();
    told = element;
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    place();
    if (element.dataset.same) {
      document.querySelectorAll(`[data-same="${element.dataset.same}"]`).forEach((e) => e.classList.add("same"));
    }
  };
  const pin = (element) => { show(element); pinned = true; tip.classList.add("pinned"); };
  document.addEventListener("pointerover", (event) => {
    if (pinned) return;
    const element = teller(event.target);
    if (element) show(element); else hide();
  });
  document.addEventListener("focusin", (event) => {
    const element = teller(event.target);
    if (element && !pinned) show(element);
  });
  document.addEventListener("focusout", () => { if (!pinned) hide(); });
  document.addEventListener("click", (event) => {
    const element = teller(event.target);
    if (element && !(pinned && element === told)) pin(element); else if (!tip.contains(event.target)) hide();
  });
  document.addEventListener("keydown", (event) => {
    const element = teller(event.target);
    if (event.key === "Escape") hide(); else if (element && event.key === "Enter") pin(element);
  });
  document.addEventListener("scroll", () => { if (told) place(); }, { capture: true, passive: true });
  // A link to a route that is folded away opens it.
  const reveal = () => {
    const route = document.getElementById(location.hash.slice(1));
    if (route instanceof HTMLDetailsElement) route.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
  // Finding an operator by its name or type: in the table, and its box in the picture.
  for (const field of document.querySelectorAll(".find")) {
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase(), boxes = new Set();
      for (const row of field.closest("details").querySelectorAll("tbody tr")) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
        if (wanted && !row.hidden) boxes.add(row.dataset.box);
      }
      for (const box of document.querySelectorAll(`[id^="${field.dataset.route}b"]`)) {
        box.classList.toggle("found", boxes.has(box.id));
      }
    });
  }
})();
