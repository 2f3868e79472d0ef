// When a training ends, the Lora cards are made anew, so that the new file can be clicked at once. The host shows a page
// that is opened later the cards of its first one, so these are made anew, too, when files were saved since.
(() => {
    "use strict";
    if (window.loraExtCardsLoaded || typeof gradioApp !== "function") return;
    window.loraExtCardsLoaded = true;

    const EVERY = 2000; // ms, while a run is going on
    let running = false;
    let opened = false;

    // The tab's script draws this state while the tab is in sight; a run is started from there.
    const drawnState = () => gradioApp().querySelector(".lora-ext-panel")?.dataset.state;
    const busy = (state) => state === "running" || state === "stopping";

    async function state() {
        const panel = gradioApp().querySelector(".lora-ext-panel");
        const headers = {"x-lora-ext-key": panel.dataset.key};
        const answer = await fetch("lora-ext/v1/page/job?after=1000000000", {headers, cache: "no-store"});
        return answer.ok ? answer.json() : null;
    }

    function refresh() {
        for (const tab of ["txt2img", "img2img"]) {
            const button = gradioApp().getElementById(`${tab}_lora_extra_refresh_internal`);
            if (button) button.dispatchEvent(new Event("click"));
        }
    }

    async function compare() {
        const foot = gradioApp().querySelector("#txt2img_lora_cards_html .lora-ext-foot");
        if (opened || !foot || foot.dataset.view === "0") return;
        opened = true;
        const headers = {"content-type": "application/json", "x-lora-ext-key": foot.dataset.key};
        const answer = await fetch("lora-ext/v1/page/card/view", {method: "POST", headers, body: "{}"});
        if (answer.ok && String((await answer.json()).view) !== foot.dataset.view) refresh();
    }

    async function look() {
        await compare().catch(() => null);
        if (!running && !busy(drawnState())) return;
        running = true;
        const job = await state().catch(() => null);
        if (job === null || busy(job.state)) return;
        running = false;
        if (job.saved.length) refresh();
    }

    setInterval(look, EVERY);
})();
