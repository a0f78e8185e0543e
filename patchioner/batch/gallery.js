const main = document.querySelector("main"), buttons = [...document.querySelectorAll("button")];
const sort = (order) => {
  const value = (card) => order === "file" ? 0 : "sure" in card.dataset
    ? card.dataset.sure * (order === "least" ? 1 : -1) : Infinity;
  const before = (a, b) => value(a) - value(b) || a.dataset.place - b.dataset.place;
  main.append(...[...main.children].sort(before));
  for (const one of buttons) one.setAttribute("aria-pressed", one.value === order);
};
for (const one of buttons) one.addEventListener("click", () => sort(one.value));
