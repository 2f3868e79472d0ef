// Step 1: the folder of pictures. The server holds the captions being edited and tells what changed since a revision;
// this script asks for it, and those beside it draw what is in sight. Names and captions are written by users: they only
// ever become text nodes.
(() => {
    "use strict";
    const pics = (window.loraExtPictures ||= {});
    if (pics.ask) return;

    const EVERY = {reading: 250, looking: 900, idle: 4000};

    // What this page knows. `entries` by number; `shown` are the numbers that search and filter leave, in order.
    const state = {
        key: "", root: "", revision: 0, facts: null, entries: new Map(), shown: [], selected: new Set(), cursor: null,
        values: "", separator: ",", tags: new Set(), anchor: null,
    };
    const listeners = [];
    let asking = false;
    let askedAt = 0;
    let typed = {value: "", at: 0, tried: null};
    let opening = 0;

    const ext = () => window.loraExt;
    const t = (...words) => ext().t(...words);
    const home = () => ext()?.page().querySelector(".lora-ext-pics");
    const part = (name) => home()?.querySelector(`[data-pic="${name}"]`);
    const inSight = () => home() && home().getClientRects().length > 0 && !document.hidden;

    // ---- asking -----------------------------------------------------------------------------------------------

    // The answer's JSON; problems are thrown as `{problems}`, a lost connection as an Error.
    async function answer(promise) {
        const got = await promise;
        const body = await got.json().catch(() => ({}));
        if (got.ok) return body;
        if (got.status === 403) throw new Error(t("The server was restarted. Reload this page."));
        throw body.problems ? {problems: body.problems} : new Error(t("The server answered with an error ({0}).", got.status));
    }

    // Change something; what is new comes with the answer. One after the other: a save means what was typed before it.
    let latest = Promise.resolve();
    function change(path, body = {}) {
        const key = state.key;
        const turn = latest.then(() => changeNow(key, path, body));
        latest = turn.catch(() => {}); // told by whoever asked
        return turn;
    }

    async function changeNow(key, path, body) {
        const got = await answer(ext().send("POST", `pictures/${key}/${path}`, {...body, after: state.revision}));
        if (key === state.key) take(got);
        return got;
    }

    // What stands in the inputs of a data set, wherever they are; remembered, for gradio takes closed ones away.
    const lastValues = {};
    function values() {
        for (const name of JSON.parse(home()?.dataset.settings || "[]")) {
            const box = ext().page().querySelector(`#lora_ext_field_${name}`);
            const input = box?.querySelector("textarea, input");
            if (input) lastValues[name] = input.type === "checkbox" ? input.checked : input.value;
        }
        return lastValues;
    }

    function given() {
        return Object.fromEntries(Object.entries(values()).filter(([, value]) => value !== ""));
    }

    async function open(loud) {
        const wanted = values();
        const sign = JSON.stringify(wanted);
        const turn = ++opening;
        typed.tried = (wanted.images || "").trim();
        if (!typed.tried) return close("");
        pics.report(t("Reading the folder…"));
        try {
            const got = await answer(ext().send("POST", "pictures", given()));
            if (turn !== opening) return;
            if (got.key !== state.key) forget();
            Object.assign(state, {key: got.key, revision: 0, values: sign, separator: wanted.tag_separator || ","});
            state.entries.clear();
            pics.say(got.problems.filter((problem) => problem.field !== "concept"));
            pics.fieldError("");
            take(got);
        } catch (error) {
            if (turn !== opening) return;
            const text = error.problems ? error.problems.map((p) => ext().said(p.text)).join(" ") : error.message;
            close(text);
            if (loud && error.problems) pics.fieldError(text);
        } finally {
            askedAt = 0;
        }
    }

    function close(text) {
        state.values = "";
        forget();
        if (home()) home().dataset.state = "closed";
        part("desk").hidden = true;
        pics.say([]);
        pics.report(text || t("Name a folder, and its pictures are shown here."));
    }

    function forget() {
        Object.assign(state, {key: "", revision: 0, facts: null, shown: [], cursor: null, anchor: null});
        state.entries.clear();
        state.selected.clear();
        state.tags.clear();
        pics.dropThumbs();
        pics.showDetail();
    }

    // New entries and facts; whatever draws is told.
    function take(got) {
        const before = new Map(got.entries.map((entry) => [entry.id, state.entries.get(entry.id)]));
        for (const entry of got.entries) {
            const old = before.get(entry.id);
            if (old && old.size.join() !== entry.size.join()) pics.dropThumb(entry.id);
            state.entries.set(entry.id, entry);
        }
        for (const id of got.gone) {
            state.entries.delete(id);
            state.selected.delete(id);
            pics.dropThumb(id);
            if (state.cursor === id) state.cursor = null;
        }
        state.revision = Math.max(state.revision, got.revision);
        const {count, complete, looked, unsaved, undo, redo, save_notice, notices, problems, root} = got;
        state.facts = {count, complete, looked, unsaved, undo, redo, save_notice, notices, problems};
        state.root = root;
        home().dataset.state = complete ? "open" : "reading";
        part("desk").hidden = state.entries.size === 0 && complete === false;
        pics.sort();
        drawAll(got.entries.map((entry) => entry.id));
        if (state.cursor === null && state.shown.length) pics.choose(state.shown[0]);
    }

    async function ask() {
        if (asking || !state.key) return;
        asking = true;
        askedAt = Date.now();
        const {key, revision} = state;
        try {
            const got = await answer(ext().get(`pictures/${key}?after=${revision}`));
            if (key === state.key) take(got);
        } catch (error) {
            if (key !== state.key) return;
            if (error.problems) typed.tried = null; // not open any more: it is opened again
            else pics.report(error.message === "Failed to fetch" ? t("No connection to the server. Trying again…") : error.message);
        } finally {
            asking = false;
        }
    }

    function tick() {
        if (!ext() || !pics.listen || !inSight()) return;
        pics.listen();
        const images = (values().images || "").trim();
        if (images !== typed.value) typed = {...typed, value: images, at: Date.now()};
        const settled = Date.now() - typed.at > 500;
        if (settled && images !== typed.tried) return void open(false);
        if (settled && state.key && JSON.stringify(values()) !== state.values) return void open(false);
        const pace = !state.facts?.complete ? "reading" : state.facts.looked < usable() ? "looking" : "idle";
        if (state.key && Date.now() - askedAt >= EVERY[pace]) ask();
        if (!state.key && !part("report").textContent) close("");
    }

    const usable = () => [...state.entries.values()].filter((entry) => entry.size[0] > 0).length;

    function fail(error) {
        pics.say(error.problems || [{label: "", text: error.message}]);
        drawAll(pics.drawn());
    }

    // ---- everything that depends on the entries ---------------------------------------------------------------

    function drawAll(changed) {
        if (!state.facts) return;
        pics.drawReport();
        pics.drawGrid(changed);
        const {unsaved, undo, redo, complete} = state.facts;
        part("count").textContent = state.selected.size
            ? t("{0} shown, {1} selected", state.shown.length, state.selected.size)
            : t("{0} shown", state.shown.length);
        const actions = {undo, redo, revert: unsaved, save: unsaved && complete};
        for (const [name, can] of Object.entries(actions)) part(name).disabled = !can;
        part("undo").title = undo ? t(undo) : "";
        part("redo").title = redo ? t(redo) : "";
        part("save").textContent = unsaved ? t("Save {0} captions", unsaved) : t("Save captions");
        part("grid").dataset.empty = String(!state.shown.length);
        if (changed.includes(state.cursor) || pics.detail.id !== state.cursor) pics.showDetail();
        listeners.forEach((listener) => listener());
    }

    Object.assign(pics, {
        state, part, home, inSight, usable, answer, ask, change, values, open, drawAll, fail,
        onDraw: (listener) => listeners.push(listener),
    });

    setInterval(tick, 200);
})();
