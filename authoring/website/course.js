// The sidebar's button on narrow screens, and a search that needs no server: its index is a script that is loaded when
// somebody starts to type, because pages opened from a folder may not fetch anything else.
(() => {
  const root = document.documentElement.dataset.root;
  const find = (id) => document.getElementById(id);
  const [menu, sidebar, form, query, count, results] = ["menu", "sidebar", "search", "query", "count", "results"].map(find);

  document.documentElement.classList.add("scripted");
  menu.hidden = form.hidden = false;
  menu.addEventListener("click", () => {
    const open = sidebar.classList.toggle("open");
    menu.setAttribute("aria-expanded", String(open));
  });
  sidebar.addEventListener("click", (event) => {
    if (event.target.closest("a")) {
      sidebar.classList.remove("open");
      menu.setAttribute("aria-expanded", "false");
    }
  });

  let loading;
  const load = () => (loading ??= new Promise((done) => {
    const script = document.createElement("script");
    script.src = `${root}search-index.js`;
    script.onload = () => done(window.COURSE_INDEX);
    document.head.append(script);
  }));

  const LIMIT = 12;
  const starts = (text, word) => new RegExp(`(^|[^\\p{L}\\p{N}])${word}`, "u").test(text);
  const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

  // Every word has to be in the section, as the beginning of a word; titles count most, then headings, then prose.
  const score = (section, words) => words.reduce((sum, word) => {
    if (sum === 0) return 0;
    const points = 8 * starts(section.title.toLowerCase(), word) + 6 * starts(section.heading.toLowerCase(), word)
      + 2 * starts(section.text.toLowerCase(), word) + starts(section.code.toLowerCase(), word);
    return points ? sum + points : 0;
  }, 1);

  const snippet = (section, words) => {
    const text = starts(section.text.toLowerCase(), words[0]) ? section.text : section.code || section.text;
    const at = Math.max(0, text.toLowerCase().search(new RegExp(words[0], "u")) - 40);
    return (at ? "… " : "") + text.slice(at, at + 130) + (text.length > at + 130 ? " …" : "");
  };

  const show = (index) => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean).map(escaped);
    const found = words.length === 0 ? [] : index
      .map((section) => ({ section, points: score(section, words) }))
      .filter((each) => each.points > 0)
      .sort((one, other) => other.points - one.points);
    results.replaceChildren(...found.slice(0, LIMIT).map(({ section }) => {
      const item = document.createElement("li"), link = document.createElement("a"), text = document.createElement("p");
      link.href = `${root}${section.page}${section.anchor ? "#" + encodeURIComponent(section.anchor) : ""}`;
      link.textContent = section.heading && section.heading !== section.title
        ? `${section.label}: ${section.heading}` : section.label;
      text.textContent = snippet(section, words);
      item.append(link, text);
      return item;
    }));
    if (words.length === 0) count.textContent = "";
    else if (found.length === 0) count.textContent = "Nothing found.";
    else if (found.length > LIMIT) count.textContent = `The best ${LIMIT} of ${found.length} places.`;
    else count.textContent = found.length === 1 ? "One place." : `${found.length} places.`;
  };

  query.addEventListener("focus", load);
  query.addEventListener("input", () => load().then(show));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load().then((index) => { show(index); results.querySelector("a")?.focus(); });
  });
})();
