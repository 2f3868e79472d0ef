// The comparison sheet of step 4: saved steps to the right, prompts and strengths downwards. It is made in the server;
// this script asks how far it is, so that a reloaded page or a second one shows it too.
(() => {
    "use strict";
    if (window.loraExtSheet) return;

    const EVERY = {running: 1000, other: 4000};
    const AT_ONCE = 4; // pictures asked for at the same time
    const {get, send, page, make, t, onTab} = window.loraExt;
    const {known, part, said, button, write, fileTitle, duration, lossText, lowest, number, answered, heardOf, onSaved} = window.loraExtChoose;

    const sheet = {view: null, cells: [], thumbs: new Map(), made: 0}; // `cells[row][column]`: button and id of its picture
    let drawn = "";
    let asking = false;
    let askedAt = 0;
    let open = false;
    let loading = 0;

    const columnFile = (column) => known.runs.flatMap((run) => run.files).find((file) => file.file === column.file);
    const columnTitle = (column) => fileTitle(columnFile(column) ?? column);
    const rowTitle = (row) => (row.strength ? t("Strength {0}", number(row.strength)) : t("Without the LoRA"));

    // ---- asking -----------------------------------------------------------------------------------------------

    async function ask() {
        if (asking) return;
        asking = true;
        askedAt = Date.now();
        try {
            take(await answered(get("sheet")));
        } catch (error) {
            if (!error.problems) throw error;
            if (sheet.view?.state === "running") write("failure", t("No connection to the server. Trying again…"));
        } finally {
            asking = false;
        }
    }

    function take(view) {
        const before = sheet.view;
        if (before && isOther(view, before)) forget();
        sheet.view = view;
        heardOf(view);
        draw();
    }

    // Its files may have got other names, and still it is the same.
    const shape = (view) => JSON.stringify([view.columns.length, view.rows]);

    function isOther(view, before) {
        const begunAnew = before.cells.length > 0 && view.cells[0]?.id !== before.cells[0].id;
        return begunAnew || shape(view) !== shape(before);
    }

    function forget() {
        for (const address of sheet.thumbs.values()) if (address) URL.revokeObjectURL(address);
        Object.assign(sheet, {cells: [], thumbs: new Map(), made: sheet.made + 1});
        loading = 0;
        drawn = "";
    }

    // ---- drawing ----------------------------------------------------------------------------------------------

    function draw() {
        const view = sheet.view;
        if (!part("made") || !view) return;
        part("made").hidden = view.state === "none";
        if (view.state === "none") return;
        write("state", stateText(view));
        write("failure", said(view.error ?? ""));
        const percent = view.total ? Math.round((100 * view.done) / view.total) : 0;
        part("bar").setAttribute("aria-valuenow", String(percent));
        part("bar").firstElementChild.style.width = `${percent}%`;
        part("bar").hidden = part("cancel").hidden = view.state !== "running";
        part("keep").hidden = view.state === "running" || !view.done;
        drawTable(view);
        fillCells(view);
    }

    function stateText(view) {
        switch (view.state) {
        case "running":
            if (view.left === null) return t("Picture {0} of {1}…", view.done + 1, view.total);
            return t("Picture {0} of {1}, about {2} left…", Math.min(view.done + 1, view.total), view.total, duration(view.left));
        case "cancelled": return t("Cancelled. {0} of {1} pictures were made.", view.done, view.total);
        case "failed": return t("It failed. {0} of {1} pictures were made.", view.done, view.total);
        default: return t("The sheet is whole. Click a picture to enlarge it; the arrow keys walk through it.");
        }
    }

    function drawTable(view) {
        const there = view.columns.map((column) => [column, columnTitle(column), Boolean(columnFile(column))]);
        const sign = JSON.stringify([shape(view), there]);
        if (drawn === sign && part("table").childElementCount) return;
        drawn = sign;
        const old = sheet.cells;
        sheet.cells = view.rows.map((row, j) => view.columns.map((column, i) => old[j]?.[i] ?? cell(j, i)));
        const table = make("table");
        table.append(head(view), ...groups(view).map((rows) => group(view, rows)));
        part("table").replaceChildren(table);
    }

    function head(view) {
        const row = make("tr");
        row.append(corner(), ...view.columns.map((column) => columnHead(view, column)));
        const made = make("thead");
        made.append(row);
        return made;
    }

    function corner() {
        const made = make("td");
        made.className = "lora-ext-sheet-corner";
        return made;
    }

    function columnHead(view, column) {
        const made = make("th");
        made.scope = "col";
        const loss = make("span", "lora-ext-choose-loss", lossText(column, view.columns));
        if (lowest(view.columns)?.loss === column.loss) loss.classList.add("lora-ext-choose-lowest");
        made.append(make("span", "lora-ext-choose-title", columnTitle(column)), loss);
        if (columnFile(column)) {
            const choose = button(t("Choose"), "", () => window.loraExtPick?.(ofColumn(view, column)));
            choose.setAttribute("aria-label", t("Choose {0}", columnTitle(column)));
            made.append(choose);
        }
        return made;
    }

    // Rows of one prompt follow one another; their prompt stands above them.
    function groups(view) {
        const found = [];
        view.rows.forEach((row, j) => {
            const last = found[found.length - 1];
            if (last && view.rows[last[0]].prompt === row.prompt) last.push(j);
            else found.push([j]);
        });
        return found;
    }

    function group(view, rows) {
        const made = make("tbody");
        const title = make("th", "lora-ext-sheet-prompt");
        Object.assign(title, {scope: "rowgroup", colSpan: view.columns.length + 1});
        title.append(make("span", "", view.rows[rows[0]].prompt));
        const line = make("tr");
        line.append(title);
        const seeds = new Set(view.rows.map((row) => row.seed)).size > 1;
        made.append(line, ...rows.map((j) => tableRow(view, j, seeds)));
        return made;
    }

    function tableRow(view, j, seeds) {
        const made = make("tr");
        const title = make("th", "", rowTitle(view.rows[j]));
        title.scope = "row";
        if (seeds) title.append(make("small", "", t("Seed {0}", view.rows[j].seed)));
        made.append(title);
        for (const one of sheet.cells[j]) {
            const place = make("td");
            place.append(one.button);
            made.append(place);
        }
        return made;
    }

    function cell(row, column) {
        const made = button("", "lora-ext-sheet-cell", () => window.loraExtViewer?.(row, column));
        made.disabled = true;
        made.tabIndex = -1;
        const picture = make("img");
        picture.alt = "";
        picture.hidden = true;
        made.append(picture);
        made.addEventListener("keydown", (event) => {
            const to = neighbour(row, column, event.key);
            if (!to) return;
            event.preventDefault();
            sheet.cells[to[0]][to[1]].button.focus();
        });
        made.addEventListener("focus", () => makeReachable(made));
        return {button: made, picture, id: null};
    }

    // The Tab key stops at one picture of the sheet; the arrow keys go to the others.
    function makeReachable(wanted) {
        for (const one of sheet.cells.flat()) one.button.tabIndex = one.button === wanted ? 0 : -1;
    }

    const STEPS = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};

    // The next one in that direction that has a picture.
    function neighbour(row, column, key) {
        const by = STEPS[key];
        if (!by) return null;
        let [j, i] = [row + by[0], column + by[1]];
        while (sheet.cells[j]?.[i] && !sheet.cells[j][i].id) [j, i] = [j + by[0], i + by[1]];
        return sheet.cells[j]?.[i] ? [j, i] : null;
    }

    function fillCells(view) {
        const whole = new Map(); // of the base alone there may be one picture for the whole row
        for (const one of view.cells) {
            if (view.rows[one.row]?.strength === 0) whole.set(one.row, one.id);
            setPicture(view, one.row, one.column, one.id);
        }
        for (const [row, id] of whole) view.columns.forEach((_, column) => setPicture(view, row, column, id));
        if (!sheet.cells.flat().some((one) => one.button.tabIndex === 0)) {
            const first = sheet.cells.flat().find((one) => one.id);
            if (first) first.button.tabIndex = 0;
        }
        loadThumbs();
    }

    function setPicture(view, row, column, id) {
        const one = sheet.cells[row]?.[column];
        if (!one || one.id !== null) return;
        one.id = id;
        one.button.disabled = false;
        one.picture.alt = words(view, row, column);
        if (!sheet.thumbs.has(id)) sheet.thumbs.set(id, null);
        else if (sheet.thumbs.get(id)) show(one, sheet.thumbs.get(id));
    }

    function words(view, row, column) {
        const [title, strength] = [columnTitle(view.columns[column]), rowTitle(view.rows[row])];
        return t("{0} · {1} · {2}", title, strength, view.rows[row].prompt);
    }

    function show(one, address) {
        one.picture.src = address;
        one.picture.hidden = false;
    }

    function loadThumbs() {
        const mine = sheet.made;
        for (const [id, address] of sheet.thumbs) {
            if (loading >= AT_ONCE) return;
            if (address !== null) continue;
            sheet.thumbs.set(id, "");
            loading += 1;
            load(`sheet/pictures/${id}/small`).then((found) => {
                if (mine !== sheet.made) return found && URL.revokeObjectURL(found);
                loading -= 1;
                sheet.thumbs.set(id, found);
                if (found) sheet.cells.flat().filter((one) => one.id === id).forEach((one) => show(one, found));
                return loadThumbs();
            });
        }
    }

    async function load(path) {
        try {
            const answer = await get(path);
            return answer.ok ? URL.createObjectURL(await answer.blob()) : "";
        } catch {
            return "";
        }
    }

    // What to begin with when a whole column is chosen: the picture of the first prompt next to the usual strength.
    function ofColumn(view, column) {
        const at = view.columns.indexOf(column);
        const usual = known.runs.find((run) => run.files.some((file) => file.file === column.file))?.strength ?? 0.8;
        const far = (j) => Math.abs(view.rows[j].strength - usual);
        const rows = [...view.rows.keys()].filter((j) => sheet.cells[j][at].id !== null && view.rows[j].strength);
        const best = rows.reduce((a, b) => (a === null || far(b) < far(a) ? b : a), null);
        return best === null ? {file: column.file} : ofCell(view, best, at);
    }

    function ofCell(view, row, column) {
        const {id, picture} = sheet.cells[row][column];
        const strength = view.rows[row].strength;
        return {file: view.columns[column].file, strength, cell: strength ? id : null, picture: strength ? picture.src : ""};
    }

    // ---- what makes it go -------------------------------------------------------------------------------------

    async function cancel() {
        try {
            await answered(send("DELETE", "sheet"));
            await ask();
        } catch (error) {
            if (!error.problems) throw error;
            write("failure", error.problems.map((problem) => problem.text).join("\n"));
        }
    }

    async function keep() {
        const address = await load("sheet.png");
        if (!address) return write("failure", t("The picture of the sheet did not come. Please try again."));
        const link = make("a");
        Object.assign(link, {href: address, download: t("LoRA comparison.png")});
        document.body.append(link);
        link.click();
        link.remove();
        return setTimeout(() => URL.revokeObjectURL(address), 60000);
    }

    document.addEventListener("click", (event) => {
        const pressed = event.target.closest?.("#lora_ext_choose [data-choose=cancel], #lora_ext_choose [data-choose=keep]");
        if (pressed) (pressed.dataset.choose === "cancel" ? cancel : keep)();
    });

    onTab((step) => {
        open = step === "lora_ext_step_choose";
        if (open) ask();
    });

    onSaved(() => draw());

    setInterval(() => {
        if (!open || document.hidden) return;
        if (Date.now() - askedAt >= EVERY[sheet.view?.state === "running" ? "running" : "other"]) ask();
    }, 250);

    // A sheet was begun from this page: nothing of the one before it is left.
    function begun(view) {
        forget();
        sheet.view = null;
        take(view);
        part("made").scrollIntoView({block: "nearest", behavior: "smooth"});
    }

    window.loraExtSheet = {sheet, begun, neighbour, words, load, ofCell, columnFile};
})();
