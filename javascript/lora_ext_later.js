// Cards far down the Lora page come as placeholders, so that thousands of them open fast; this asks for those that come
// into sight. The markup is the server's own, in which every stranger's text is escaped.
(() => {
    "use strict";
    if (window.loraExtLaterLoaded || typeof gradioApp !== "function") return;
    window.loraExtLaterLoaded = true;

    const LATER = "lora-ext-later";
    const NEAR = "600px"; // below and above the edge of the page
    const AT_ONCE = 60;
    const AGAIN = 3000; // ms until the next try, when the server did not answer
    const watched = new WeakSet();
    const waiting = new Set();
    let asking = false;

    const watcher = new IntersectionObserver((entries) => {
        for (const entry of entries) {
            if (entry.isIntersecting) waiting.add(entry.target);
            else waiting.delete(entry.target);
        }
        fill();
    }, {rootMargin: NEAR});

    async function fill() {
        if (asking) return;
        asking = true;
        while (waiting.size) {
            const cards = [...waiting].slice(0, AT_ONCE);
            cards.forEach((card) => waiting.delete(card));
            const found = await ask([...new Set(cards.map((card) => card.dataset.name))]).catch(() => null);
            if (found === null) setTimeout(() => cards.forEach(watchAnew), AGAIN);
            else cards.forEach((card) => draw(card, found[card.dataset.name]));
        }
        asking = false;
    }

    async function ask(names) {
        const key = gradioApp().querySelector(".lora-ext-foot").dataset.key;
        const headers = {"content-type": "application/json", "x-lora-ext-key": key};
        const answer = await fetch("lora-ext/v1/page/card/markup", {method: "POST", headers, body: JSON.stringify({names})});
        if (!answer.ok) throw new Error(answer.statusText);
        return (await answer.json()).cards;
    }

    function draw(card, markup) {
        watcher.unobserve(card);
        const place = document.createElement("template");
        place.innerHTML = markup || "";
        const whole = place.content.firstElementChild;
        if (!whole) return; // gone meanwhile
        card.replaceChildren(...whole.childNodes);
        Object.assign(card.dataset, whole.dataset);
        card.classList.remove(LATER);
    }

    function watchAnew(card) {
        watcher.unobserve(card);
        if (card.isConnected) watcher.observe(card);
    }

    function watch() {
        gradioApp().querySelectorAll(`.card.${LATER}`).forEach((card) => {
            if (watched.has(card)) return;
            watched.add(card);
            watcher.observe(card);
        });
    }

    onUiLoaded(watch);
    onAfterUiUpdate(watch);
})();
