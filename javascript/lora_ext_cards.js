// When a training ends, the Lora cards are made anew, so that the new file can be clicked at once.
(() => {
    "use strict";
    if (window.loraExtCardsLoaded || typeof gradioApp !== "function") return;
    window.loraExtCardsLoaded = true;

    const EVERY = 2000; // ms, while a run is going on
    let running = false;

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

    async function look() {
        if (!running && !busy(drawnState())) return;
        running = true;
        const job = await state().catch(() => null);
        if (job === null || busy(job.state)) return;
        running = false;
        if (job.saved.length) refresh();
    }

    setInterval(look, EVERY);
})();
