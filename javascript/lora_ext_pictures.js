// Step 1: the folder of pictures. The server holds the captions being edited and tells what changed since a revision;
// this script draws what is in sight. Names and captions are written by users: they only ever become text nodes.
(() => {
    "use strict";
    if (window.loraExtPictures) return;

    const TILE = {width: 112, height: 188, gap: 6};
    const AT_ONCE = 6; // thumbnails asked for at the same time
    const KEPT = 600; // thumbnails kept in memory
    const EVERY = {reading: 250, looking: 900, idle: 4000};
    const IDLE_EDIT = 1500; // ms after the last key until a caption counts as edited

    // What this page knows. `entries` by number; `shown` are the numbers that search and filter leave, in order.
    const state = {
        key: "", root: "", revision: 0, facts: null, entries: new Map(), shown: [], selected: new Set(), cursor: null,
        values: "", separator: ",", tags: new Set(), anchor: null,
    };
    const listeners = [];
    const thumbs = new Map(); // number -> {address, revision} | {waiting} | {broken}
    let queue = [];
    let running = 0;
    let asking = false;
    let askedAt = 0;
    let typed = {value: "", at: 0, tried: null};
    let detail = {id: null, whole: false, view: 0, address: "", sign: ""};
    let typing = 0;
    let opening = 0;

    const ext = () => window.loraExt;
    const t = (...words) => ext().t(...words);
    const make = (...words) => ext().make(...words);
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

    // Change something; what is new comes with the answer.
    async function change(path, body = {}) {
        const key = state.key;
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
        report(t("Reading the folder…"));
        try {
            const got = await answer(ext().send("POST", "pictures", given()));
            if (turn !== opening) return;
            if (got.key !== state.key) forget();
            Object.assign(state, {key: got.key, revision: 0, values: sign, separator: wanted.tag_separator || ","});
            state.entries.clear();
            say(got.problems.filter((problem) => problem.field !== "concept"));
            fieldError("");
            take(got);
        } catch (error) {
            if (turn !== opening) return;
            const text = error.problems ? error.problems.map((p) => p.text).join(" ") : error.message;
            close(text);
            if (loud && error.problems) fieldError(text);
        } finally {
            askedAt = 0;
        }
    }

    function close(text) {
        state.values = "";
        forget();
        if (home()) home().dataset.state = "closed";
        part("desk").hidden = true;
        say([]);
        report(text || t("Name a folder, and its pictures are shown here."));
    }

    function forget() {
        Object.assign(state, {key: "", revision: 0, facts: null, shown: [], cursor: null, anchor: null});
        state.entries.clear();
        state.selected.clear();
        state.tags.clear();
        for (const one of thumbs.values()) if (one.address) URL.revokeObjectURL(one.address);
        thumbs.clear();
        queue = [];
        showDetail();
    }

    // New entries and facts; whatever draws is told.
    function take(got) {
        const before = new Map(got.entries.map((entry) => [entry.id, state.entries.get(entry.id)]));
        for (const entry of got.entries) {
            const old = before.get(entry.id);
            if (old && old.size.join() !== entry.size.join()) dropThumb(entry.id);
            state.entries.set(entry.id, entry);
        }
        for (const id of got.gone) {
            state.entries.delete(id);
            state.selected.delete(id);
            dropThumb(id);
            if (state.cursor === id) state.cursor = null;
        }
        state.revision = Math.max(state.revision, got.revision);
        const {count, complete, looked, unsaved, undo, redo, save_notice, notices, problems, root} = got;
        state.facts = {count, complete, looked, unsaved, undo, redo, save_notice, notices, problems};
        state.root = root;
        home().dataset.state = complete ? "open" : "reading";
        part("desk").hidden = state.entries.size === 0 && complete === false;
        sort();
        drawAll(got.entries.map((entry) => entry.id));
        if (state.cursor === null && state.shown.length) choose(state.shown[0]);
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
            else report(error.message === "Failed to fetch" ? t("No connection to the server. Trying again…") : error.message);
        } finally {
            asking = false;
        }
    }

    function tick() {
        if (!ext() || !inSight()) return;
        listen();
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

    // ---- what is told -----------------------------------------------------------------------------------------

    function report(text) {
        const place = part("report");
        if (place && place.textContent !== text) place.textContent = text;
    }

    function say(problems) {
        const place = part("messages");
        const lines = problems.map((p) => make("p", "", [p.label, p.text].filter(Boolean).join(": ")));
        place?.replaceChildren(...lines);
    }

    function fieldError(text) {
        const box = ext().page().querySelector("#lora_ext_field_images");
        if (!box) return;
        let message = box.querySelector(".lora-ext-error");
        if (!text) return void message?.remove();
        if (!message) {
            message = make("div", "lora-ext-error");
            message.id = `${box.id}_error`;
            message.setAttribute("role", "alert");
            box.append(message);
            box.addEventListener("input", () => message.remove(), {once: true});
        }
        message.textContent = text;
    }

    document.addEventListener("keydown", (event) => {
        if (event.target === document.body && ext() && inSight() && state.key) onKey(event);
    });

    const KINDS = {
        unreadable: "{0} unreadable", no_caption: "{0} without caption", small: "{0} smaller than trained",
        cut: "{0} much cut off", alike: "{0} looking alike", rotated: "{0} turned by the camera",
    };

    const SENTENCES = {
        unreadable: "It cannot be used: {0}.",
        no_caption: "It has no caption.",
        small: "It is {0} × {1} px and is scaled up to {2} × {3}: it will look soft.",
        cut: "It is so long that {0} of it is cut off.",
        alike: "It looks like {0}.",
        rotated: "The camera noted that it is to be turned; it is trained as you see it here.",
    };

    function drawReport() {
        const counts = {};
        for (const entry of state.entries.values()) {
            for (const problem of entry.problems) counts[problem.kind] = (counts[problem.kind] || 0) + 1;
        }
        const parts = [state.entries.size === 1 ? t("1 picture") : t("{0} pictures", state.entries.size)];
        for (const [kind, text] of Object.entries(KINDS)) if (counts[kind]) parts.push(t(text, counts[kind]));
        if (!state.facts.complete) parts.push(t("still reading…"));
        else if (state.facts.looked < usable()) parts.push(t("{0} looked at", state.facts.looked));
        report(parts.join(", "));
        const notices = state.facts.notices;
        part("notices").replaceChildren(...notices.map((text) => make("li", "", text)));
        part("notes").hidden = !notices.length;
    }

    // ---- order and choice -------------------------------------------------------------------------------------

    const collator = new Intl.Collator(undefined, {numeric: true, sensitivity: "base"});
    const WEIGHT = ["unreadable", "no_caption", "small", "cut", "alike", "rotated"];
    const worst = (entry) => Math.min(WEIGHT.length, ...entry.problems.map((p) => WEIGHT.indexOf(p.kind)));
    const area = (size) => size[0] * size[1];
    const text = (entry) => entry.text || "";

    const ORDERS = {
        name: () => 0,
        caption: (a, b) => collator.compare(text(a), text(b)),
        length: (a, b) => text(b).length - text(a).length,
        size: (a, b) => area(b.size) - area(a.size),
        bucket: (a, b) => area(b.bucket) - area(a.bucket) || b.bucket[0] - a.bucket[0],
        problems: (a, b) => worst(a) - worst(b),
    };

    const tagsOf = (entry) => text(entry).split("\n").flatMap((line) => line.split(state.separator)).map((tag) => tag.trim()).filter(Boolean);

    function passes(entry, words, filter, tags) {
        if (filter === "problem" && !entry.problems.length) return false;
        if (filter === "changed" && !entry.changed) return false;
        if (filter === "selected" && !state.selected.has(entry.id)) return false;
        if (filter in KINDS && !entry.problems.some((p) => p.kind === filter)) return false;
        if (tags.length) {
            const own = new Set(tagsOf(entry));
            if (!tags.every((tag) => own.has(tag))) return false;
        }
        const all = `${entry.name}\n${text(entry)}`.toLowerCase();
        return words.every((word) => all.includes(word));
    }

    function sort() {
        const words = part("search").value.toLowerCase().split(/\s+/).filter(Boolean);
        const filter = part("filter").value;
        const tags = [...state.tags];
        const order = ORDERS[part("sort").value];
        const found = [...state.entries.values()].filter((entry) => passes(entry, words, filter, tags));
        found.sort((a, b) => order(a, b) || collator.compare(a.name, b.name));
        state.shown = found.map((entry) => entry.id);
        if (state.cursor !== null && !state.entries.has(state.cursor)) state.cursor = null;
    }

    // The pictures that a change of many is about: those selected, else all that are shown.
    function scope() {
        const chosen = state.shown.filter((id) => state.selected.has(id));
        const hidden = state.selected.size - chosen.length;
        return {numbers: state.selected.size ? [...state.selected] : state.shown, selected: state.selected.size, hidden};
    }

    function choose(id, {range = false, toggle = false, see = true} = {}) {
        commit();
        if (range && state.anchor !== null) {
            const [from, to] = [state.shown.indexOf(state.anchor), state.shown.indexOf(id)].sort((a, b) => a - b);
            if (from >= 0) state.shown.slice(from, to + 1).forEach((one) => state.selected.add(one));
        } else {
            state.anchor = id;
        }
        if (toggle) state.selected.has(id) ? state.selected.delete(id) : state.selected.add(id);
        state.cursor = id;
        if (see) bringToSight(id);
        drawAll([]);
        showDetail();
    }

    // ---- the grid ---------------------------------------------------------------------------------------------

    let layout = {columns: 1, first: 0, last: -1};
    const drawnTiles = new Map(); // number -> element

    function measure() {
        const grid = part("grid");
        const width = grid.clientWidth - TILE.gap;
        layout.columns = Math.max(2, Math.floor(width / (TILE.width + TILE.gap)));
        layout.wide = Math.floor(width / layout.columns) - TILE.gap;
        layout.tall = TILE.height - TILE.width + layout.wide;
    }

    function drawGrid(changed = []) {
        const grid = part("grid");
        if (!grid || !grid.clientWidth) return;
        measure();
        const {columns, wide, tall} = layout;
        const rows = Math.ceil(state.shown.length / columns);
        const step = tall + TILE.gap;
        const tiles = part("tiles");
        tiles.style.height = `${rows * step + TILE.gap}px`;
        const first = Math.max(0, Math.floor(grid.scrollTop / step) - 1) * columns;
        const last = Math.min(state.shown.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / step) + 1) * columns);
        const wanted = state.shown.slice(first, last);
        const keep = new Set(wanted);
        for (const [id, tile] of drawnTiles) {
            if (!keep.has(id)) {
                tile.remove();
                drawnTiles.delete(id);
            }
        }
        const fresh = new Set(changed);
        wanted.forEach((id, i) => {
            let tile = drawnTiles.get(id);
            if (!tile || fresh.has(id)) {
                const next = makeTile(state.entries.get(id));
                if (tile) tile.replaceWith(next);
                else tiles.append(next);
                drawnTiles.set(id, tile = next);
            }
            const [row, column] = [Math.floor((first + i) / columns), (first + i) % columns];
            tile.style.transform = `translate(${TILE.gap + column * (wide + TILE.gap)}px, ${TILE.gap + row * step}px)`;
            tile.style.width = `${wide}px`;
            tile.style.height = `${tall}px`;
            tile.setAttribute("aria-posinset", first + i + 1);
            tile.setAttribute("aria-setsize", state.shown.length);
            tile.setAttribute("aria-selected", String(state.selected.has(id)));
            tile.classList.toggle("lora-ext-pic-cursor", id === state.cursor);
        });
        if (state.cursor !== null && keep.has(state.cursor)) grid.setAttribute("aria-activedescendant", tileId(state.cursor));
        else grid.removeAttribute("aria-activedescendant");
        queue = wanted.filter((id) => !thumbs.has(id) && state.entries.get(id).size[0] > 0);
        loadThumbs();
    }

    const tileId = (id) => `lora_ext_picture_${id}`;

    function makeTile(entry) {
        const tile = make("div", "lora-ext-pic-tile");
        tile.id = tileId(entry.id);
        tile.dataset.id = entry.id;
        tile.setAttribute("role", "option");
        tile.title = entry.name;
        const frame = make("div", "lora-ext-pic-thumb");
        const thumb = thumbs.get(entry.id);
        if (thumb?.address) frame.append(image(thumb.address));
        if (thumb?.broken || !entry.size[0]) frame.append(make("span", "lora-ext-pic-broken", t("unreadable")));
        const marks = make("div", "lora-ext-pic-marks");
        for (const problem of entry.problems) {
            const mark = make("span", `lora-ext-pic-mark lora-ext-pic-${problem.kind}`, t(MARKS[problem.kind]));
            mark.title = t(SENTENCES[problem.kind], ...problem.values);
            marks.append(mark);
        }
        if (entry.changed) marks.append(make("span", "lora-ext-pic-mark lora-ext-pic-changed", t("not saved")));
        frame.append(marks);
        tile.append(frame, make("div", "lora-ext-pic-words", text(entry) || entry.trained || "–"), make("div", "lora-ext-pic-name", entry.name));
        if (!text(entry)) tile.querySelector(".lora-ext-pic-words").classList.add("lora-ext-pic-none");
        if (entry.size[0]) tile.append(make("div", "lora-ext-pic-size", `${entry.size.join("×")} → ${entry.bucket.join("×")}`));
        return tile;
    }

    const MARKS = {
        unreadable: "unreadable", no_caption: "no caption", small: "small", cut: "cut off", alike: "alike", rotated: "turned",
    };

    function image(address) {
        const picture = make("img");
        picture.src = address;
        picture.alt = "";
        return picture;
    }

    async function loadThumbs() {
        while (running < AT_ONCE && queue.length) {
            const id = queue.shift();
            if (thumbs.has(id)) continue;
            running += 1;
            thumbs.set(id, {waiting: true});
            loadThumb(id, state.key).finally(() => {
                running -= 1;
                loadThumbs();
            });
        }
    }

    async function loadThumb(id, key) {
        try {
            const got = await ext().get(`pictures/${key}/thumbnail/${id}`);
            if (key !== state.key) return;
            thumbs.set(id, got.ok ? {address: URL.createObjectURL(await got.blob())} : {broken: true});
        } catch {
            thumbs.delete(id);
            return;
        }
        trimThumbs();
        const frame = drawnTiles.get(id)?.querySelector(".lora-ext-pic-thumb");
        const thumb = thumbs.get(id);
        if (frame && thumb?.address) frame.prepend(image(thumb.address));
        else if (frame && thumb?.broken) frame.prepend(make("span", "lora-ext-pic-broken", t("unreadable")));
    }

    function dropThumb(id) {
        const old = thumbs.get(id);
        if (old?.address) URL.revokeObjectURL(old.address);
        thumbs.delete(id);
    }

    function trimThumbs() {
        for (const id of thumbs.keys()) {
            if (thumbs.size <= KEPT) return;
            if (!drawnTiles.has(id)) dropThumb(id);
        }
    }

    function bringToSight(id) {
        const grid = part("grid");
        const at = state.shown.indexOf(id);
        if (at < 0 || !layout.tall) return;
        const top = Math.floor(at / layout.columns) * (layout.tall + TILE.gap);
        if (top < grid.scrollTop) grid.scrollTop = top;
        else if (top + layout.tall + 2 * TILE.gap > grid.scrollTop + grid.clientHeight) {
            grid.scrollTop = top + layout.tall + 2 * TILE.gap - grid.clientHeight;
        }
    }

    // ---- the chosen picture -----------------------------------------------------------------------------------

    function showDetail() {
        const entry = state.entries.get(state.cursor);
        const pane = part("detail");
        if (!pane) return;
        pane.hidden = !entry;
        if (!entry) {
            detail.id = null;
            return;
        }
        if (detail.id !== entry.id) Object.assign(detail, {id: entry.id, view: 0, sign: ""});
        part("name").textContent = entry.name;
        part("facts").textContent = facts(entry).join(" · ");
        part("problems").replaceChildren(...entry.problems.map((p) => make("li", "", t(SENTENCES[p.kind], ...p.values))));
        const box = part("caption");
        box.disabled = !entry.size[0];
        // What is being typed stays; what was only shown becomes what is known now.
        if (box.dataset.id !== String(entry.id) || box.value === box.dataset.known) box.value = text(entry);
        Object.assign(box.dataset, {id: entry.id, known: text(entry)});
        drawChips(entry);
        const told = entry.trained !== text(entry) && entry.size[0];
        part("trained").textContent = told ? t("Trained with: {0}", entry.trained || t("no words at all")) : "";
        part("as-trained").setAttribute("aria-pressed", String(!detail.whole));
        part("as-whole").setAttribute("aria-pressed", String(detail.whole));
        const other = part("other-view");
        other.hidden = detail.whole || entry.views < 2;
        other.textContent = t("Version {0} of {1}", (detail.view % Math.max(1, entry.views)) + 1, entry.views);
        showPicture(entry);
    }

    function facts(entry) {
        if (!entry.size[0]) return [];
        const kept = (entry.bucket[0] * entry.bucket[1]) / (entry.resized[0] * entry.resized[1]);
        const found = [t("{0} × {1} px", ...entry.size), t("trained at {0} × {1}", ...entry.bucket)];
        if (kept < 0.995) found.push(t("{0} % cut off", Math.round(100 * (1 - kept))));
        if (entry.repeats !== 1) found.push(t("seen {0} times per epoch", entry.repeats));
        if (entry.masked) found.push(t("has a mask"));
        if (entry.source === "list") found.push(t("caption from {0}", entry.file));
        return found;
    }

    async function showPicture(entry) {
        const place = part("view");
        const path = detail.whole ? `whole/${entry.id}` : `trained/${entry.id}?view=${detail.view}`;
        const sign = `${state.key}/${path}/${entry.bucket}/${entry.crop}/${entry.size}`;
        if (detail.sign === sign) return;
        detail.sign = sign;
        place.style.aspectRatio = entry.size[0] ? (detail.whole ? entry.size : entry.bucket).join(" / ") : "";
        if (!entry.size[0]) return void place.replaceChildren(make("p", "lora-ext-empty", t("This picture cannot be read.")));
        const thumb = thumbs.get(entry.id);
        if (detail.whole && thumb?.address) place.replaceChildren(image(thumb.address));
        let address = "";
        try {
            const got = await ext().get(`pictures/${state.key}/${path}`);
            if (got.ok) address = URL.createObjectURL(await got.blob());
        } catch { /* told by the next question */ }
        if (detail.sign !== sign) return void (address && URL.revokeObjectURL(address));
        if (detail.address) URL.revokeObjectURL(detail.address);
        detail.address = address;
        if (!address) return void place.replaceChildren(make("p", "lora-ext-empty", t("This picture cannot be read.")));
        const picture = image(address);
        picture.alt = text(entry) || entry.name;
        place.replaceChildren(picture);
        if (detail.whole) place.append(cut(entry));
    }

    // What is cut out, as a frame over the whole picture.
    function cut(entry) {
        const frame = make("div", "lora-ext-pic-cut");
        const share = (value, i) => `${(100 * value) / entry.resized[i]}%`;
        Object.assign(frame.style, {
            left: share(entry.crop[0], 0), top: share(entry.crop[1], 1),
            width: share(entry.bucket[0], 0), height: share(entry.bucket[1], 1),
        });
        return frame;
    }

    function drawChips(entry) {
        const tags = tagsOf(entry);
        const list = part("chips");
        const at = [...list.querySelectorAll("button")].indexOf(document.activeElement);
        list.hidden = tags.length < 2;
        list.replaceChildren(...(tags.length < 2 ? [] : tags.map((tag) => {
            const item = make("li");
            const button = make("button", "", `${tag} ×`);
            button.type = "button";
            button.title = t("Remove {0}", tag);
            button.dataset.tag = tag;
            item.append(button);
            return item;
        })));
        if (at < 0) return;
        const left = list.querySelectorAll("button");
        (left[Math.min(at, left.length - 1)] || part("caption")).focus(); // not lost with the button that had it
    }

    // The caption as typed becomes an edit; nothing happens when it is what is known already.
    function commit() {
        clearTimeout(typing);
        const box = part("caption");
        const id = Number(box?.dataset.id);
        const entry = state.entries.get(id);
        if (!entry || !box || box.value === text(entry) || box.disabled) return;
        edit(id, box.value);
    }

    async function edit(id, caption) {
        const entry = state.entries.get(id);
        state.entries.set(id, {...entry, text: caption, changed: true}); // at once; the answer has the last word
        drawAll([id]);
        try {
            await change("edit", {texts: {[id]: caption}});
        } catch (error) {
            state.entries.set(id, entry);
            fail(error);
        }
    }

    function fail(error) {
        say(error.problems || [{label: "", text: error.message}]);
        drawAll([...drawnTiles.keys()]);
    }

    // ---- everything that depends on the entries ---------------------------------------------------------------

    function drawAll(changed) {
        if (!state.facts) return;
        drawReport();
        drawGrid(changed);
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
        if (changed.includes(state.cursor) || detail.id !== state.cursor) showDetail();
        listeners.forEach((listener) => listener());
    }

    // ---- saving -----------------------------------------------------------------------------------------------

    async function save(conflicts = "ask") {
        commit();
        part("conflicts").hidden = true;
        try {
            const {saved} = await change("save", {conflicts});
            if (saved.conflicts.length) return askAbout(saved.conflicts);
            const lines = [saved.written === 1 ? t("1 caption saved.") : t("{0} captions saved.", saved.written)];
            if (saved.failed.length) lines.push(t("Not saved: {0}.", saved.failed.map(([name, why]) => `${name} (${why})`).join(", ")));
            part("saved").textContent = lines.join(" ");
            say([]);
        } catch (error) {
            fail(error);
        }
    }

    function askAbout(names) {
        const shown = names.slice(0, 5).join(", ") + (names.length > 5 ? ", …" : "");
        part("conflict-text").textContent = t("Somebody changed these files since they were read: {0}. What should stay?", shown);
        part("conflicts").hidden = false;
        part("save-mine").focus();
    }

    const act = (path) => {
        commit();
        change(path).then(() => say([]), fail);
    };

    // ---- dropped files ----------------------------------------------------------------------------------------

    async function send(files) {
        const folder = (values().images || "").trim();
        if (!folder) return fieldError(t("Name the folder that the pictures go into first."));
        const failed = [];
        let [done, known] = [0, 0];
        for (const file of files) {
            report(t("Copying {0} of {1}: {2}", done + failed.length + 1, files.length, file.name));
            const where = `folder=${encodeURIComponent(folder)}&name=${encodeURIComponent(file.name)}`;
            try {
                const headers = {"x-lora-ext-key": ext().key()};
                const got = await answer(fetch(`lora-ext/v1/page/picture-file?${where}`, {method: "PUT", headers, body: file}));
                if (got.known) known += 1;
                done += 1;
            } catch (error) {
                failed.push(...(error.problems || [{label: file.name, text: error.message}]));
            }
        }
        await open(true);
        const told = known ? [{label: "", text: t("{0} files were there already.", known)}] : [];
        say([...failed.map((p) => ({label: "", text: p.text})), ...told]);
    }

    // ---- what the user does -----------------------------------------------------------------------------------

    const CLICKS = {
        undo: () => act("undo"),
        redo: () => act("redo"),
        revert: () => act("revert"),
        save: () => save(),
        "save-mine": () => save("mine"),
        "save-theirs": () => save("theirs"),
        "save-not": () => { part("conflicts").hidden = true; },
        "select-all": () => { state.shown.forEach((id) => state.selected.add(id)); drawAll([]); },
        "select-none": () => { state.selected.clear(); sort(); drawAll([]); },
        reload: () => { for (const id of [...thumbs.keys()]) dropThumb(id); open(true); },
        "as-trained": () => { detail.whole = false; showDetail(); },
        "as-whole": () => { detail.whole = true; showDetail(); },
        "other-view": () => { detail.view += 1; showDetail(); },
    };

    function onClick(event) {
        const name = event.target.closest("[data-pic]")?.dataset.pic;
        if (event.target.closest("button") && CLICKS[name]) return CLICKS[name]();
        const tile = event.target.closest(".lora-ext-pic-tile");
        if (tile) {
            choose(Number(tile.dataset.id), {range: event.shiftKey, toggle: event.ctrlKey || event.metaKey, see: false});
            part("grid").focus({preventScroll: true});
        }
        const chip = event.target.closest("[data-pic=chips] button");
        if (chip) removeTag(chip.dataset.tag);
    }

    function removeTag(tag) {
        commit();
        change("bulk", {action: "remove", words: tag, numbers: [state.cursor]}).catch(fail);
    }

    function onGridKey(event) {
        const {columns} = layout;
        const at = state.shown.indexOf(state.cursor);
        const page = Math.max(1, Math.floor(part("grid").clientHeight / (layout.tall + TILE.gap))) * columns;
        const moves = {
            ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page,
            Home: -Infinity, End: Infinity,
        };
        const last = state.shown.length - 1;
        if (event.key in moves && last >= 0) {
            event.preventDefault();
            const to = Math.max(0, Math.min(last, at + moves[event.key]));
            choose(state.shown[to], {range: event.shiftKey});
        } else if (event.key === "Enter" && state.cursor !== null) {
            event.preventDefault();
            part("caption").focus();
            part("caption").select();
        } else if (event.key === " " && state.cursor !== null) {
            event.preventDefault();
            choose(state.cursor, {toggle: true});
        } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            CLICKS["select-all"]();
        }
    }

    function onKey(event) {
        const word = (event.ctrlKey || event.metaKey) && !event.altKey ? event.key.toLowerCase() : "";
        const box = part("caption");
        const own = /^(INPUT|TEXTAREA)$/.test(event.target.tagName) && !(event.target === box && box.value === text(state.entries.get(state.cursor) || {}));
        if (word === "s") {
            event.preventDefault();
            if (state.key) save();
        } else if ((word === "z" || word === "y") && !own) {
            event.preventDefault();
            if (state.key) act(word === "y" || event.shiftKey ? "redo" : "undo");
        } else if (event.target === box && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            commit();
            part("grid").focus({preventScroll: true});
        } else if (event.target === box && event.key === "Escape") {
            box.value = text(state.entries.get(Number(box.dataset.id)) || {});
            part("grid").focus({preventScroll: true});
        } else if (event.target.closest("[data-pic=grid]")) {
            onGridKey(event);
        }
    }

    function refilter() {
        sort();
        part("grid").scrollTop = 0;
        if (state.shown.length && !state.shown.includes(state.cursor)) choose(state.shown[0]);
        drawAll([]);
        bringToSight(state.cursor);
    }

    // Once for every place that gradio draws.
    function listen() {
        const place = home();
        if (!place || place.dataset.heard) return;
        place.dataset.heard = "yes";
        place.addEventListener("click", onClick);
        place.addEventListener("keydown", onKey);
        part("grid").addEventListener("scroll", () => drawGrid(), {passive: true});
        new ResizeObserver(() => state.facts && drawGrid()).observe(part("grid"));
        part("search").addEventListener("input", refilter);
        part("filter").addEventListener("change", refilter);
        part("sort").addEventListener("change", refilter);
        part("caption").addEventListener("input", () => {
            clearTimeout(typing);
            typing = setTimeout(commit, IDLE_EDIT);
        });
        part("caption").addEventListener("blur", commit);
        part("files").addEventListener("change", (event) => {
            send([...event.target.files]);
            event.target.value = "";
        });
        listenDrops(ext().page().querySelector("#lora_ext_step_pictures") || place);
        const field = ext().page().querySelector("#lora_ext_field_images");
        field?.addEventListener("change", () => setTimeout(() => open(true), 0));
        if (state.facts) drawAll([]);
    }

    function listenDrops(place) {
        const over = (event, on) => {
            if (![...(event.dataTransfer?.types || [])].includes("Files")) return;
            event.preventDefault();
            part("drop")?.classList.toggle("lora-ext-pic-over", on);
        };
        place.addEventListener("dragover", (event) => over(event, true));
        place.addEventListener("dragleave", (event) => over(event, false));
        place.addEventListener("drop", (event) => {
            over(event, false);
            const files = [...(event.dataTransfer?.files || [])];
            if (files.length) send(files);
        });
    }

    // Training reads what is on disk: whoever starts it with unsaved captions is asked.
    document.addEventListener("click", (event) => {
        if (!event.target.closest?.("#lora_ext_start") || !state.facts?.unsaved) return;
        const question = t("{0} captions are not saved. Training uses what is on disk. Start all the same?", state.facts.unsaved);
        if (window.confirm(question)) return;
        event.preventDefault();
        event.stopImmediatePropagation();
    }, true);

    window.loraExtPictures = {
        state, part, answer, ask, change, scope, sort, drawAll, refilter, tagsOf, fail, commit, choose,
        onDraw: (listener) => listeners.push(listener),
    };

    setInterval(tick, 200);
})();
