// What is said to a click on Start: each problem beside its field, in whatever step that is, and in one list those whose
// field is not in sight. An accepted start leads the page that asked for it to the run.
(() => {
    "use strict";
    if (window.loraExtReply) return;

    const [GOAL, TRAIN] = ["lora_ext_step_goal", "lora_ext_step_train"];
    const FIELD = "lora_ext_field_";
    const {page, make, said, problemText, openStep, step, toSight} = window.loraExt;

    let heard = ""; // the answer that was last read
    let listed = []; // its problems, in the order of its list
    let problems = []; // those that are shown: of the answer, or of a run that failed
    let fresh = false; // until the first of them is brought to sight
    let pressed = ""; // the step that was open when Start was pressed
    let waits = false; // since Start was pressed, until its answer is there

    const find = (selector) => page().querySelector(selector);
    const visible = (element) => Boolean(element?.getClientRects().length);
    const field = (problem) => find(`#${FIELD}${CSS.escape(problem.field)}`);
    const value = (problem) => window.loraExtSettings?.read(problem.field);

    // The answer to the last click, put by gradio into its own box; true when it is a new one.
    function read() {
        const reply = find(".lora-ext-reply");
        if (!reply || reply.dataset.id === heard) return false;
        const firstSight = heard === "";
        heard = reply.dataset.id;
        if (firstSight) return false;
        waits = false;
        show(JSON.parse(reply.dataset.problems), true);
        listed = problems;
        layList(reply);
        if (reply.dataset.begun) follow();
        return true;
    }

    // Whoever went to another step meanwhile, or is writing something, is not taken away from it.
    function follow() {
        const writes = document.activeElement?.matches?.("input, textarea, select, [contenteditable=true]");
        if (writes || step() !== pressed) return;
        openStep(TRAIN);
        toSight();
    }

    // `jump`: open the step of the first one; whoever watches a run that fails is not taken away from it.
    function show(some, jump) {
        page().querySelectorAll(".lora-ext-error").forEach((message) => clear(message.parentElement));
        problems = some.map((problem) => ({...problem, placed: false, mended: false}));
        if (jump) problems.forEach((problem) => { problem.before = problem.field ? value(problem) : undefined; });
        listed = [];
        fresh = jump;
    }

    // ---- beside the fields ------------------------------------------------------------------------------------

    function placeAll() {
        problems.filter((one) => one.before !== undefined && value(one) !== one.before).forEach(mend);
        const waiting = problems.filter((one) => one.field && !one.placed && !one.mended);
        if (!waiting.length) return;
        if (fresh && !waiting.some((problem) => visible(field(problem)))) openStep(stepOf(waiting[0]));
        const here = waiting.filter((problem) => stepOf(problem) === step());
        here.forEach(uncover);
        const placed = here.filter(place);
        if (fresh && placed.length) bringToSight(field(placed[0]));
        fresh &&= !placed.length;
    }

    // The step whose field it is; one that is in no step yet (its page is not drawn) is looked for in the second.
    const stepOf = (problem) => field(problem)?.closest("[id^=lora_ext_step_]")?.id ?? GOAL;

    // A search may have hidden it, or it is among the settings that are folded away.
    function uncover(problem) {
        window.loraExtSettings?.reveal(problem.field);
        const header = visible(field(problem)) ? null : find("#lora_ext_more .label-wrap");
        if (header && !header.classList.contains("open")) header.click();
    }

    function bringToSight(home) {
        home.scrollIntoView({block: "center", behavior: "smooth"});
        home.querySelector("input, textarea, select")?.focus({preventScroll: true});
    }

    function place(problem) {
        const home = field(problem);
        if (!visible(home)) return false;
        let message = home.querySelector(".lora-ext-error");
        if (!message) {
            message = make("div", "lora-ext-error");
            message.id = `${home.id}_error`;
            message.setAttribute("role", "alert");
            home.append(message);
        }
        message.textContent = [message.textContent, said(problem.text)].filter(Boolean).join(" ");
        const input = home.querySelector("input, textarea, select");
        input?.setAttribute("aria-invalid", "true");
        input?.setAttribute("aria-describedby", message.id);
        problem.placed = true;
        return true;
    }

    // Its field was changed, by hand or by a goal: whether it is right now, the next start tells.
    function mend(problem) {
        const home = field(problem);
        problem.mended = true;
        if (home) clear(home);
    }

    function clear(home) {
        home.querySelectorAll(".lora-ext-error").forEach((message) => message.remove());
        home.querySelectorAll("[aria-invalid]").forEach((input) => {
            input.removeAttribute("aria-invalid");
            input.removeAttribute("aria-describedby");
        });
    }

    function changed(event) {
        const home = event.target.closest?.(`[id^=${FIELD}]`);
        const name = home?.id.slice(FIELD.length);
        problems.filter((one) => one.field === name && one.placed).forEach(mend);
    }

    // ---- the list ---------------------------------------------------------------------------------------------

    function layList(reply) {
        [...reply.querySelectorAll("li")].forEach((item, n) => item.replaceChildren(field(listed[n]) ? way(listed[n]) : problemText(listed[n])));
    }

    // Leads to the field of a problem.
    function way(problem) {
        const button = make("button", "lora-ext-way", problemText(problem));
        button.type = "button";
        button.addEventListener("click", () => {
            openStep(stepOf(problem));
            uncover(problem);
            placeAll();
            bringToSight(field(problem));
        });
        return button;
    }

    // What is marked in sight needs no list; when all is mended, the answer has nothing to say any more.
    function drawList() {
        const reply = find(".lora-ext-reply.lora-ext-bad");
        const items = reply ? [...reply.querySelectorAll("li")] : [];
        if (!items.length) return;
        items.forEach((item, n) => {
            const one = listed[n];
            const hidden = !one || one.mended || (one.placed && visible(field(one)));
            if (item.hidden !== hidden) item.hidden = hidden;
        });
        if (listed.every((one) => one.mended)) reply.classList.remove("lora-ext-bad");
    }

    function tick() {
        const news = read();
        placeAll();
        drawList();
        return news;
    }

    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#lora_ext_start")) pressed = step();
    }, true);
    // Not while it is caught: somebody may be asked first whether to start at all, and refuse.
    document.addEventListener("click", (event) => {
        if (event.target.closest?.("#lora_ext_start:not([disabled])")) waits = true;
    });
    document.addEventListener("input", changed);
    document.addEventListener("change", changed);

    window.loraExtReply = {tick, show, waits: () => waits, waitNoMore: () => { waits = false; }};
})();
