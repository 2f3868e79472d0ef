// What the user does in step 1: clicks, keys, files dropped, captions saved.
(() => {
    "use strict";
    const pics = (window.loraExtPictures ||= {});
    if (pics.listen) return;
    const {state} = pics;
    const t = (...words) => window.loraExt.t(...words);
    const part = (name) => pics.part(name);

    async function save(conflicts = "ask") {
        pics.commit();
        part("conflicts").hidden = true;
        part("saved").textContent = t("Saving…");
        try {
            const {saved} = await pics.change("save", {conflicts});
            part("saved").textContent = "";
            if (saved.conflicts.length) return askAbout(saved.conflicts);
            const lines = [saved.written === 1 ? t("1 caption saved.") : t("{0} captions saved.", saved.written)];
            if (saved.failed.length) lines.push(t("Not saved: {0}.", saved.failed.map(([name, why]) => `${name} (${why})`).join(", ")));
            part("saved").textContent = lines.join(" ");
            pics.say([]);
        } catch (error) {
            part("saved").textContent = "";
            pics.fail(error);
        }
    }

    function askAbout(names) {
        const shown = names.slice(0, 5).join(", ") + (names.length > 5 ? ", …" : "");
        part("conflict-text").textContent = t("Somebody changed these files since they were read: {0}. What should stay?", shown);
        part("conflicts").hidden = false;
        part("save-mine").focus();
    }

    const act = (path) => {
        pics.commit();
        pics.change(path).then(() => pics.say([]), pics.fail);
    };

    // ---- dropped files ----------------------------------------------------------------------------------------

    async function send(files) {
        const folder = (pics.values().images || "").trim();
        if (!folder) return pics.fieldError(t("Name the folder that the pictures go into first."));
        const failed = [];
        let [done, known] = [0, 0];
        for (const file of files) {
            pics.report(t("Copying {0} of {1}: {2}", done + failed.length + 1, files.length, file.name));
            const where = `folder=${encodeURIComponent(folder)}&name=${encodeURIComponent(file.name)}`;
            try {
                const headers = {"x-lora-ext-key": window.loraExt.key()};
                const got = await pics.answer(fetch(`lora-ext/v1/page/picture-file?${where}`, {method: "PUT", headers, body: file}));
                if (got.known) known += 1;
                done += 1;
            } catch (error) {
                failed.push(...(error.problems || [{label: file.name, text: error.message}]));
            }
        }
        await pics.open(true);
        const told = known ? [{label: "", text: t("{0} files were there already.", known)}] : [];
        pics.say([...failed.map((p) => ({label: "", text: p.text})), ...told]);
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
        "select-all": () => { state.shown.forEach((id) => state.selected.add(id)); pics.drawAll([]); },
        "select-none": () => { state.selected.clear(); pics.sort(); pics.drawAll([]); },
        reload: () => { pics.dropThumbs(); pics.open(true); },
        "as-trained": () => { pics.detail.whole = false; pics.showDetail(); },
        "as-whole": () => { pics.detail.whole = true; pics.showDetail(); },
        "other-view": () => { pics.detail.view += 1; pics.showDetail(); },
    };

    function onClick(event) {
        const name = event.target.closest("[data-pic]")?.dataset.pic;
        if (event.target.closest("button") && CLICKS[name]) return CLICKS[name]();
        const tile = event.target.closest(".lora-ext-pic-tile");
        if (tile) {
            pics.choose(Number(tile.dataset.id), {range: event.shiftKey, toggle: event.ctrlKey || event.metaKey, see: false});
            part("grid").focus({preventScroll: true});
        }
        const chip = event.target.closest("[data-pic=chips] button");
        if (chip) removeTag(chip.dataset.tag);
    }

    function removeTag(tag) {
        pics.commit();
        pics.change("bulk", {action: "remove", words: tag, numbers: [state.cursor]}).catch(pics.fail);
    }

    function onGridKey(event) {
        const at = state.shown.indexOf(state.cursor);
        const {columns, page} = pics.reach();
        const moves = {
            ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page,
            Home: -Infinity, End: Infinity,
        };
        const last = state.shown.length - 1;
        if (event.key in moves && last >= 0) {
            event.preventDefault();
            const to = Math.max(0, Math.min(last, at + moves[event.key]));
            pics.choose(state.shown[to], {range: event.shiftKey});
        } else if (event.key === "Enter" && state.cursor !== null) {
            event.preventDefault();
            part("caption").focus();
            part("caption").select();
        } else if (event.key === " " && state.cursor !== null) {
            event.preventDefault();
            pics.choose(state.cursor, {toggle: true});
        } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            CLICKS["select-all"]();
        }
    }

    function onKey(event) {
        const word = (event.ctrlKey || event.metaKey) && !event.altKey ? event.key.toLowerCase() : "";
        const box = part("caption");
        const own = /^(INPUT|TEXTAREA)$/.test(event.target.tagName) && !(event.target === box && box.value === pics.text(state.entries.get(state.cursor) || {}));
        if (word === "s") {
            event.preventDefault();
            if (state.key) save();
        } else if ((word === "z" || word === "y") && !own) {
            event.preventDefault();
            if (state.key) act(word === "y" || event.shiftKey ? "redo" : "undo");
        } else if (event.target === box && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            pics.commit();
            part("grid").focus({preventScroll: true});
        } else if (event.target === box && event.key === "Escape") {
            box.value = pics.text(state.entries.get(Number(box.dataset.id)) || {});
            part("grid").focus({preventScroll: true});
        } else if (event.target.closest("[data-pic=grid]")) {
            onGridKey(event);
        }
    }

    // Once for every place that gradio draws.
    function listen() {
        const place = pics.home();
        if (!place || place.dataset.heard) return;
        place.dataset.heard = "yes";
        place.addEventListener("click", onClick);
        place.addEventListener("keydown", onKey);
        part("grid").addEventListener("scroll", () => pics.drawGrid(), {passive: true});
        new ResizeObserver(() => state.facts && pics.drawGrid()).observe(part("grid"));
        part("search").addEventListener("input", pics.refilter);
        part("filter").addEventListener("change", pics.refilter);
        part("sort").addEventListener("change", pics.refilter);
        part("caption").addEventListener("input", pics.soon);
        part("caption").addEventListener("blur", pics.commit);
        part("files").addEventListener("change", (event) => {
            send([...event.target.files]);
            event.target.value = "";
        });
        listenDrops(window.loraExt.page().querySelector("#lora_ext_step_pictures") || place);
        const field = window.loraExt.page().querySelector("#lora_ext_field_images");
        field?.addEventListener("change", () => setTimeout(() => pics.open(true), 0));
        if (state.facts) pics.drawAll([]);
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

    document.addEventListener("keydown", (event) => {
        if (event.target === document.body && pics.inSight?.() && state.key) onKey(event);
    });

    // Training reads what is on disk: whoever starts it with unsaved captions is asked.
    document.addEventListener("click", (event) => {
        if (!event.target.closest?.("#lora_ext_start") || !state.facts?.unsaved) return;
        const question = t("{0} captions are not saved. Training uses what is on disk. Start all the same?", state.facts.unsaved);
        if (window.confirm(question)) return;
        event.preventDefault();
        event.stopImmediatePropagation();
    }, true);

    Object.assign(pics, {listen});
})();
