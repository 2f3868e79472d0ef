// What shall be learnt: four goals, each a preset that fits the loaded model, the pictures and the card; what was
// chosen and why; and what a run with these settings will take.
(() => {
    "use strict";
    if (window.loraExtGoal) return;
    window.loraExtGoal = true;

    const GOALS = {
        character: ["Character", "One person or figure that is always recognised."],
        style: ["Style", "How something is drawn or painted, whatever it shows."],
        concept: ["Concept", "A pose, a garment, an effect: what many things can have."],
        object: ["Object", "One thing or place: a mug, a car, a building."],
    };
    const REST = 500; // ms without a change before the forecast is asked for
    const MODEL_EVERY = 10000;
    const KEEP = "lora_ext_goal";
    const GIB = 2 ** 30;

    const ext = () => window.loraExt;
    const form = () => window.loraExtSettings;
    const t = (...words) => ext().t(...words);
    const make = (...words) => ext().make(...words);
    const find = (selector) => ext()?.page().querySelector(selector);

    let model = null;
    let asked = {model: 0, forecast: 0, sign: ""};
    let resting = 0;
    let undo = null;
    // The preset that counts as unchanged: a goal, or an own one, with its settings and sentences.
    let chosen = remembered();

    function remembered() {
        try {
            return JSON.parse(sessionStorage.getItem(KEEP)) ?? {};
        } catch {
            return {};
        }
    }

    function keep() {
        try {
            sessionStorage.setItem(KEEP, JSON.stringify(chosen));
        } catch { /* then a reloaded page starts without */ }
    }

    // ---- asking -----------------------------------------------------------------------------------------------

    // The JSON of an answer; problems of a refusal are thrown as `{problems}`.
    async function answer(promise) {
        const got = await promise;
        const body = await got.json().catch(() => ({}));
        if (got.ok) return body;
        if (got.status === 403) throw {problems: [{field: "", text: t("The server was restarted. Reload this page.")}]};
        throw {problems: body.problems ?? [{field: "", text: t("The server answered with an error ({0}).", got.status)}]};
    }

    const lines = (error) => error.problems?.map((one) => ({...one, text: ext().said(one.text)}))
        ?? [{text: t("No connection to the server. Trying again…")}];

    async function askModel() {
        asked.model = Date.now();
        try {
            const found = await answer(ext().get("model"));
            const other = model && (found.name !== model.name || found.family !== model.family);
            model = found;
            form().model({family: model.family, prediction_type: model.prediction_type});
            say("model", modelText());
            if (other && chosen.goal) await suggest(chosen.goal, true);
        } catch (error) {
            model = null;
            say("model", lines(error).map((one) => one.text).join(" "));
        }
    }

    function modelText() {
        const on = t("It learns on {0} ({1}), the checkpoint that is loaded.", model.name, model.title);
        if (model.inpainting) return `${on} ${t("Inpainting models cannot be trained yet.")}`;
        if (!model.card) return `${on} ${t("There is no graphics card: it will train on the processor, which takes very long.")}`;
        const {name, total, free} = model.card;
        if (free === null) return `${on} ${t("Card: {0}, {1} GB.", name, gigabytes(total))}`;
        return `${on} ${t("Card: {0}, {1} GB, of which {2} GB are free for it.", name, gigabytes(total), gigabytes(free))}`;
    }

    const gigabytes = (bytes) => String(Number((bytes / GIB).toFixed(1)));

    // ---- a goal -----------------------------------------------------------------------------------------------

    // `gently`: only what nobody changed by hand follows, because the pictures or the model are others now.
    async function suggest(goal, gently) {
        outdate();
        try {
            const made = await answer(ext().send("POST", "suggestion", {goal, values: form().values()}));
            const before = await (gently ? follow(made.settings) : take(made.settings));
            chosen = {goal, settings: made.settings, reasons: made.reasons, pictures: made.pictures};
            settle(gently ? undo : before);
        } catch (error) {
            say("reply", lines(error).map((one) => one.text).join(" "));
            askForecast();
        }
    }

    // Every setting that is not of the one run gets the preset's value, or its default.
    async function take(settings) {
        const wanted = {...form().defaults(), ...settings};
        for (const [name, one] of form().settings()) if (one.of_run) delete wanted[name];
        const before = await form().set(wanted);
        form().setBase(settings);
        return before;
    }

    async function follow(settings) {
        const [old, now] = [form().base(), form().values()];
        const wanted = {...form().defaults(), ...settings};
        for (const [name, one] of form().settings()) {
            if (one.of_run || !form().same(name, now[name] ?? "", old[name])) delete wanted[name];
        }
        const before = await form().set(wanted);
        form().setBase(settings);
        return before;
    }

    function settle(before) {
        undo = before && Object.keys(before).length ? before : null;
        keep();
        draw();
        askForecast();
    }

    // ---- drawing ----------------------------------------------------------------------------------------------

    function lay(place) {
        const choice = make("fieldset", "lora-ext-goals");
        choice.append(make("legend", "", t("What shall it learn?")));
        const cards = make("div", "lora-ext-cards");
        for (const [goal, [title, words]] of Object.entries(GOALS)) cards.append(card(goal, title, words));
        choice.append(cards);
        const why = make("div", "lora-ext-why");
        why.setAttribute("aria-live", "polite");
        why.dataset.goal = "why";
        place.replaceChildren(slot("model", "p"), choice, why, slot("reply", "p"), make("div", "lora-ext-own"));
        draw();
    }

    function slot(name, tag) {
        const made = make(tag, `lora-ext-goal-${name}`);
        made.dataset.goal = name;
        made.setAttribute("role", "status");
        return made;
    }

    function card(goal, title, words) {
        const label = make("label", "lora-ext-choice");
        const radio = make("input");
        Object.assign(radio, {type: "radio", name: "lora_ext_goal_choice", value: goal, checked: chosen.goal === goal});
        radio.addEventListener("click", () => suggest(goal, false));
        const text = make("span", "");
        text.append(make("b", "", t(title)), make("small", "", t(words)));
        label.append(radio, text);
        return label;
    }

    function say(name, text) {
        const place = find(`[data-goal="${name}"]`);
        if (place && place.textContent !== text) place.textContent = text;
    }

    function draw() {
        const why = find('[data-goal="why"]');
        if (!why) return;
        for (const radio of ext().page().querySelectorAll("[name=lora_ext_goal_choice]")) {
            radio.checked = radio.value === chosen.goal;
        }
        const sentences = (chosen.reasons ?? []).map((said) => make("li", "", t(said.template, ...said.values)));
        why.replaceChildren();
        if (chosen.preset) why.append(make("p", "", t("Your preset “{0}” is set.", chosen.preset)));
        if (sentences.length) {
            const list = make("ul");
            list.append(...sentences);
            why.append(list);
        }
        if (undo) why.append(undoLine());
    }

    function undoLine() {
        const line = make("p", "lora-ext-quiet", "");
        const button = make("button", "lora-ext-back", t("Undo"));
        button.type = "button";
        button.addEventListener("click", takeBack);
        line.append(make("span", "", t("{0} settings were set.", Object.keys(undo).length)), " ", button);
        return line;
    }

    async function takeBack() {
        const before = undo;
        undo = null;
        chosen = {};
        await form().set(before);
        form().setBase({});
        keep();
        draw();
        askForecast();
    }

    // ---- the forecast -----------------------------------------------------------------------------------------

    function changed() {
        outdate();
        clearTimeout(resting);
        resting = setTimeout(askForecast, REST);
    }

    // What is told is of settings that are others now; an answer about those that is still to come counts no more.
    function outdate() {
        asked.forecast++;
        const place = find(".lora-ext-forecast");
        if (!place || place.classList.contains("lora-ext-stale")) return;
        place.classList.add("lora-ext-stale");
        place.setAttribute("aria-busy", "true");
        place.append(make("p", "lora-ext-renewing", t("Working it out…")));
    }

    function renewed(place) {
        place.classList.remove("lora-ext-stale");
        place.removeAttribute("aria-busy");
        place.querySelector(".lora-ext-renewing")?.remove();
    }

    async function askForecast() {
        outdate();
        const turn = asked.forecast;
        try {
            const told = await answer(ext().send("POST", "forecast", form().values()));
            if (turn !== asked.forecast) return;
            form().tell(told.advice);
            drawForecast(told);
            if (chosen.goal && told.counted !== chosen.pictures) await suggest(chosen.goal, true);
        } catch (error) {
            if (turn !== asked.forecast) return;
            const elsewhere = form().tell((error.problems ?? []).filter((one) => one.field));
            const here = error.problems ? [...elsewhere, ...error.problems.filter((one) => !one.field)] : lines(error);
            drawTrouble(here.map((one) => ext().said(one.text)));
        }
    }

    function drawForecast(told) {
        const place = find(".lora-ext-forecast");
        if (!place) return;
        const list = make("dl", "lora-ext-facts");
        list.append(
            fact("Pictures", told.pictures === null ? "–" : t("{0} in an epoch", told.pictures)),
            fact("Steps", told.steps === null ? "–" : told.steps.toLocaleString()),
            fact("Time, about", told.seconds === null ? "–" : duration(told.seconds)),
            fact("Memory", memory(told)),
            fact("File", t("{0} MB", (told.file / 1e6).toFixed(told.file < 1e7 ? 1 : 0))),
        );
        const notes = [];
        if (told.fits === false) notes.push([t("This is more than the card has. What helps is said at the settings it is about."), "bad"]);
        if (told.steps === null) notes.push([t("Name the folder of pictures in step 1, and the time can be told."), ""]);
        else if (!told.timed) notes.push([t("The time is a guess until a run was timed on this machine; it may be off by half."), ""]);
        if (told.memory === null) notes.push([t("How much memory it takes on the processor cannot be told beforehand."), ""]);
        show(place, [list, ...notes.map(([text, bad]) => make("p", bad ? "lora-ext-toomuch" : "lora-ext-quiet", text))]);
        place.classList.toggle("lora-ext-over", told.fits === false);
    }

    function drawTrouble(texts) {
        const place = find(".lora-ext-forecast");
        if (!place) return;
        const all = texts.length ? texts : [t("Time and memory can be told once what is marked is put right.")];
        show(place, all.map((text) => make("p", "lora-ext-quiet", text)));
    }

    // What reads the same is not drawn again: a screen reader would say it again.
    function show(place, parts) {
        renewed(place);
        const made = make("div");
        made.append(...parts);
        if (place.innerHTML !== made.innerHTML) place.replaceChildren(...made.childNodes);
    }

    function fact(title, text) {
        const pair = make("div");
        pair.append(make("dt", "", t(title)), make("dd", "", text));
        return pair;
    }

    function memory(told) {
        if (told.memory === null) return "–";
        if (told.free === null) return t("{0} GB", gigabytes(told.memory));
        return t("{0} of {1} GB", gigabytes(told.memory), gigabytes(told.free));
    }

    function duration(seconds) {
        const minutes = Math.max(1, Math.round(seconds / 60));
        if (minutes < 60) return t("{0} min", minutes);
        const hours = Math.round(minutes / 6) / 10;
        return hours < 48 ? t("{0} h", hours) : t("{0} days", Math.round(hours / 24));
    }

    // ---- life -------------------------------------------------------------------------------------------------

    // Taken over from an own preset; see `lora_ext_exchange.js`.
    async function usePreset(name, settings) {
        const before = await take(settings);
        chosen = {preset: name, settings, reasons: []};
        settle(before);
    }

    let begun = false;

    function tick() {
        const place = find(".lora-ext-goal");
        if (!form() || !place || !place.getClientRects().length || document.hidden) return;
        if (!place.querySelector(".lora-ext-goals")) {
            lay(place);
            if (model) say("model", modelText());
        }
        if (!begun) {
            begun = true;
            form().onChange(changed);
            if (chosen.settings) form().setBase(chosen.settings);
            askForecast();
        }
        if (Date.now() - asked.model >= MODEL_EVERY) askModel();
    }

    setInterval(tick, 300);
    window.loraExtGoal = {usePreset, answer, lines, settle};
})();
