// The settings of a run as they stand in the form: read, set, searched, marked where they differ from the preset, and
// hidden where they have no effect. gradio keeps the values; this script only reads the page and asks gradio to set.
(() => {
    "use strict";
    if (window.loraExtSettings) return;

    const EVERY = 400;
    const VIEWS = {common: "Common", changed: "Changed", all: "Everything"};
    const SETTLE = 80; // ms that gradio needs to take over what was written into the page

    const ext = () => window.loraExt;
    const t = (...words) => ext().t(...words);
    const make = (...words) => ext().make(...words);
    const find = (selector) => ext()?.page().querySelector(selector);
    const home = (name) => find(`#lora_ext_field_${name}`);

    let known = null; // name -> what `data-settings` says of it, in order
    let base = {}; // what counts as unchanged: the defaults, or those with a preset over them
    let facts = {}; // of the loaded model: family, prediction_type
    let sign = "";
    const view = {of: "common", text: "", forced: new Set()};
    const listeners = [];

    function settings() {
        const place = known ? null : find(".lora-ext-goal[data-settings]");
        if (place) {
            known = new Map(JSON.parse(place.dataset.settings).map((one) => [one.name, one]));
            base = defaults();
        }
        return known ?? new Map();
    }

    const defaults = () => Object.fromEntries([...settings()].map(([name, one]) => [name, one.default]));

    // ---- values -----------------------------------------------------------------------------------------------

    // What a field holds: true or false, or text; undefined for one that is not in the page.
    function read(name) {
        const input = home(name)?.querySelector("input, textarea");
        if (!input) return undefined;
        return input.type === "checkbox" ? input.checked : input.value;
    }

    function values() {
        const found = {};
        for (const name of settings().keys()) {
            const value = read(name);
            if (value !== undefined) found[name] = value;
        }
        return found;
    }

    function same(name, one, other) {
        const kind = settings().get(name)?.kind;
        if (kind === "int" || kind === "float") return String(one).trim() !== "" && Number(one) === Number(other);
        if (kind === "bool") return Boolean(one) === Boolean(other);
        return String(one) === String(other);
    }

    const changed = (name, now = read(name)) => now !== undefined && !same(name, now, base[name]);

    // Set some values; resolves with what they were before, once the page shows them (or did not after a while).
    async function set(wanted) {
        const now = values();
        const names = Object.keys(wanted).filter((name) => name in now && !same(name, now[name], wanted[name]));
        const before = Object.fromEntries(names.map((name) => [name, now[name]]));
        if (!names.length) return before;
        const box = find("#lora_ext_wanted")?.querySelector("textarea, input");
        const button = find("#lora_ext_take");
        if (!box || !button) return {};
        box.value = JSON.stringify(Object.fromEntries(names.map((name) => [name, wanted[name]])));
        box.dispatchEvent(new Event("input", {bubbles: true}));
        await wait(SETTLE);
        (button.matches("button") ? button : button.querySelector("button"))?.click();
        for (let n = 0; n < 60 && names.some((name) => !same(name, read(name), wanted[name])); n++) await wait(50);
        tick();
        return before;
    }

    const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

    function setBase(values) {
        base = {...defaults(), ...values};
        refresh();
    }

    // ---- what has an effect -----------------------------------------------------------------------------------

    function relevant(name, now) {
        return (settings().get(name)?.when ?? []).every((either) => either.some((one) => holds(one, now)));
    }

    function holds(one, now) {
        const value = one.name in facts ? facts[one.name] : now[one.name];
        if (value !== undefined && one.values.some((other) => same(one.name, value, other)) === one.other) return false;
        return relevant(one.name, now);
    }

    // ---- drawing ----------------------------------------------------------------------------------------------

    function refresh() {
        const more = find("#lora_ext_more");
        if (!more || !settings().size) return;
        const now = values();
        let [shown, differ] = [0, 0];
        for (const [name, one] of settings()) {
            const place = home(name);
            if (!place) continue;
            const differs = changed(name, now[name]);
            const marks = {changed: differs && !one.of_run, useless: !relevant(name, now)};
            differ += marks.changed;
            place.classList.toggle("lora-ext-changed", marks.changed);
            drawNote(place, one, marks);
            if (!more.contains(place)) continue;
            const inSight = wanted(one, differs, marks.useless);
            shown += inSight;
            place.classList.toggle("lora-ext-off", !inSight);
        }
        hideEmpty(more);
        drawFinder(more, shown, differ);
    }

    function wanted(one, differs, useless) {
        if (view.forced.has(one.name)) return true;
        const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
        if (words.length) {
            const text = [one.label, t(one.label), one.help, t(one.help), one.flag, one.name, one.title, t(one.title)];
            const all = text.join(" ").toLowerCase();
            return words.every((word) => all.includes(word));
        }
        if (view.of === "all" || differs) return true; // what somebody set is never hidden
        if (view.of === "changed" || useless) return false;
        return view.of === "common" ? !one.expert : view.of === one.section;
    }

    // Rows and sections in which nothing is left to see.
    function hideEmpty(more) {
        const seen = new Set();
        for (const name of settings().keys()) {
            const place = home(name);
            if (!place || !more.contains(place)) continue;
            const on = !place.classList.contains("lora-ext-off");
            for (let above = place.parentElement; above !== more; above = above.parentElement) {
                if (on) seen.add(above);
                else if (!seen.has(above)) above.classList.add("lora-ext-off");
            }
        }
        seen.forEach((above) => above.classList.remove("lora-ext-off"));
    }

    // The line below a field: its flag, the way back, and whether it has an effect.
    function drawNote(place, one, marks) {
        const way = String(base[one.name]);
        const now = JSON.stringify([marks, way, Boolean(place.querySelector(".lora-ext-note"))]);
        if (place.dataset.loraExtNote === now) return;
        place.querySelector(".lora-ext-note")?.remove();
        const note = make("div", "lora-ext-note");
        note.append(make("code", "lora-ext-flag", one.flag));
        if (marks.changed) note.append(backButton(one));
        if (marks.useless) note.append(make("span", "lora-ext-useless", t("No effect as things stand.")));
        place.append(note);
        place.dataset.loraExtNote = JSON.stringify([marks, way, true]);
    }

    function backButton(one) {
        const value = base[one.name];
        const button = make("button", "lora-ext-back", t("Back to {0}", shownValue(one, value)));
        button.type = "button";
        button.setAttribute("aria-label", t("{0}: back to {1}", t(one.label), shownValue(one, value)));
        button.addEventListener("click", () => set({[one.name]: value}));
        return button;
    }

    function shownValue(one, value) {
        if (one.kind === "bool") return value ? t("on") : t("off");
        return String(value) === "" ? t("nothing") : String(value);
    }

    function drawFinder(more, shown, differ) {
        const place = more.querySelector(".lora-ext-finder");
        if (!place) return;
        if (!place.childElementCount) layFinder(place);
        for (const button of place.querySelectorAll("[data-view]")) {
            button.setAttribute("aria-pressed", String(!view.text && button.dataset.view === view.of));
        }
        const told = t("{0} settings shown, {1} changed", shown, differ);
        const status = place.querySelector("[role=status]");
        if (status.textContent !== told) status.textContent = told;
    }

    function layFinder(place) {
        const search = make("input");
        const label = t("Search all settings");
        Object.assign(search, {type: "search", placeholder: label, autocomplete: "off", value: view.text});
        search.setAttribute("aria-label", label);
        search.addEventListener("input", () => {
            view.text = search.value;
            view.forced.clear();
            refresh();
        });
        const buttons = make("div", "lora-ext-chips");
        buttons.setAttribute("role", "group");
        buttons.setAttribute("aria-label", t("Which settings"));
        const sections = new Map([...settings().values()].map((one) => [one.section, one.title]));
        const {all, ...first} = VIEWS;
        for (const [of, title] of [...Object.entries(first), ...sections, ["all", all]]) {
            const button = make("button", "", t(title));
            Object.assign(button, {type: "button"});
            button.dataset.view = of;
            button.addEventListener("click", () => {
                Object.assign(view, {of, text: ""});
                view.forced.clear();
                search.value = "";
                refresh();
            });
            buttons.append(button);
        }
        const status = make("span", "lora-ext-quiet");
        status.setAttribute("role", "status");
        place.append(search, buttons, status);
    }

    // A field with a problem is brought to sight, whatever is looked for.
    function reveal(name) {
        if (!settings().has(name) || view.forced.has(name)) return;
        view.forced.add(name);
        refresh();
    }

    // ---- what is said at a field ------------------------------------------------------------------------------

    // Problems and advice, `{field, text}`; those of before go away. Returns those whose field is not in the page.
    function tell(notes) {
        ext().page().querySelectorAll(".lora-ext-advice").forEach((one) => one.remove());
        return notes.filter((one) => {
            const place = one.field && home(one.field);
            if (place) {
                const line = make("div", "lora-ext-advice", ext().said(one.text));
                line.setAttribute("role", "status");
                place.append(line);
            }
            return !place;
        });
    }

    // ---- life -------------------------------------------------------------------------------------------------

    function tick() {
        if (!ext() || !settings().size || document.hidden) return;
        const now = JSON.stringify(values());
        if (now === sign && find("#lora_ext_more .lora-ext-finder")?.childElementCount) return;
        sign = now;
        refresh();
        listeners.forEach((callback) => callback());
    }

    document.addEventListener("click", (event) => {
        const header = event.target.closest?.("#lora_ext_more .label-wrap");
        if (!header) return;
        const open = header.classList.toggle("open");
        header.setAttribute("aria-expanded", String(open));
        find("#lora_ext_more").classList.toggle("lora-ext-open", open);
        refresh();
    });
    document.addEventListener("input", (event) => {
        if (event.target.closest?.("[id^=lora_ext_field_]")) setTimeout(tick, 0);
    });
    setInterval(tick, EVERY);

    window.loraExtSettings = {
        settings, values, read, same, set, setBase, changed, reveal, tell, refresh,
        base: () => base,
        defaults,
        model(found) {
            facts = found;
            refresh();
        },
        onChange: (callback) => listeners.push(callback),
    };
})();
