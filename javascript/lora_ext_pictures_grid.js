// The grid of thumbnails of step 1: only what is in sight is drawn and loaded.
(() => {
    "use strict";
    const pics = (window.loraExtPictures ||= {});
    if (pics.drawGrid) return;
    const {state} = pics;
    const t = (...words) => window.loraExt.t(...words);
    const make = (...words) => window.loraExt.make(...words);
    const part = (name) => pics.part(name);

    const TILE = {width: 112, height: 188, gap: 6};
    const AT_ONCE = 6; // thumbnails asked for at the same time
    const KEPT = 600; // thumbnails kept in memory

    const thumbs = new Map(); // number -> {address} | {waiting} | {broken}
    let queue = [];
    let running = 0;
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
            const mark = make("span", `lora-ext-pic-mark lora-ext-pic-${problem.kind}`, pics.mark(problem));
            mark.title = pics.sentence(problem);
            marks.append(mark);
        }
        if (entry.changed) marks.append(make("span", "lora-ext-pic-mark lora-ext-pic-changed", t("not saved")));
        frame.append(marks);
        tile.append(frame, make("div", "lora-ext-pic-words", pics.text(entry) || entry.trained || "–"), make("div", "lora-ext-pic-name", entry.name));
        if (!pics.text(entry)) tile.querySelector(".lora-ext-pic-words").classList.add("lora-ext-pic-none");
        if (entry.size[0]) tile.append(make("div", "lora-ext-pic-size", `${entry.size.join("×")} → ${entry.bucket.join("×")}`));
        return tile;
    }

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
            const got = await window.loraExt.get(`pictures/${key}/thumbnail/${id}`);
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

    function dropThumbs() {
        [...thumbs.keys()].forEach(dropThumb);
        queue = [];
    }

    function trimThumbs() {
        for (const id of thumbs.keys()) {
            if (thumbs.size <= KEPT) return;
            if (!drawnTiles.has(id)) dropThumb(id);
        }
    }

    // Pictures per row, and per screenful.
    function reach() {
        const rows = Math.max(1, Math.floor(part("grid").clientHeight / (layout.tall + TILE.gap)));
        return {columns: layout.columns, page: rows * layout.columns};
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

    Object.assign(pics, {
        drawGrid, dropThumb, dropThumbs, bringToSight, reach, image,
        drawn: () => [...drawnTiles.keys()],
        thumb: (id) => thumbs.get(id),
    });
})();
