"use strict";
// The figures: each is drawn from the data next to it, for the width and the colors of the page.
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const { colors, forms } = JSON.parse(document.getElementById("settings").textContent);
const darkColors = new Map(colors);
const dark = matchMedia("screen and (prefers-color-scheme: dark)");
const main = document.querySelector("main");
const plots = [...document.querySelectorAll(".plot")];
let drawn = null;  // the index of the form of the page that the figures are drawn for

function form() {
  return forms.findIndex(({ width }) => main.clientWidth >= width);
}

function draw() {
  const recolored = dark.matches && !document.body.classList.contains("printing");
  const recolor = (_, value) => (recolored && darkColors.get(value)) || value;
  drawn = form();
  for (const plot of plots) {
    const { data, changes, layouts } = JSON.parse(plot.nextElementSibling.textContent, recolor);
    const layout = layouts[drawn];
    data.forEach((trace, i) => Object.assign(trace, changes[drawn][i]));
    for (const mark of [...data, ...(layout.shapes || [])])
      if (mark.name) mark.name = wrap(mark.name, forms[drawn].entry);
    plot.style.height = `${layout.height}px`;
    Plotly.newPlot(plot, data, layout, CONFIG);
  }
}

function wrap(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = `${lines[lines.length - 1]} ${word}`.trim();
    if (line.length > width) lines.push(word);
    else lines[lines.length - 1] = line;
  }
  return lines.join("<br>");
}

function print(begins) {
  document.body.classList.toggle("printing", begins);
  draw();
}

draw();
dark.addEventListener("change", draw);
addEventListener("beforeprint", () => print(true));
addEventListener("afterprint", () => print(false));
addEventListener("resize", () => {
  if (form() !== drawn) draw();
});

// The table of contents: it marks the current section. Links scroll by script, because in a frame
// without an address, as in MLflow, they would leave the page.
const nav = document.querySelector("nav");
const button = nav.querySelector("button");
const links = [...nav.querySelectorAll("a")];
const sections = links.map((link) => document.getElementById(link.getAttribute("href").slice(1)));
document.body.classList.add("scripted");

function mark() {
  const top = 60 + button.offsetHeight;  // 0 unless the contents are collapsed
  const ended = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  const above = sections.filter((section) => section.getBoundingClientRect().top <= top);
  const current = ended ? sections.length - 1 : Math.max(above.length - 1, 0);
  if (links[current].hasAttribute("aria-current")) return;
  for (const link of links) link.removeAttribute("aria-current");
  const link = links[current];
  link.setAttribute("aria-current", "true");
  button.textContent = link.textContent;
  if (link.offsetTop < nav.scrollTop || link.offsetTop > nav.scrollTop + nav.clientHeight - 40)
    nav.scrollTop = link.offsetTop - nav.clientHeight / 2;
}

function open(isOpen) {
  nav.classList.toggle("open", isOpen);
  button.setAttribute("aria-expanded", String(isOpen));
}

button.addEventListener("click", () => open(!nav.classList.contains("open")));
nav.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  open(false);
  const section = sections[links.indexOf(link)];
  section.scrollIntoView();
  section.focus({ preventScroll: true });
});
addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
addEventListener("resize", mark);
mark();
