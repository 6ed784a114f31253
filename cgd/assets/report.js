// The reader of a run: unpacks the examples, lists them, and shows one at a time. All model text reaches the page as text nodes only.
'use strict';
(async () => {
  const SHOWN = 20000;   // characters of one text that are drawn (with maths) before one asks for the rest
  const $ = id => document.getElementById(id);
  const make = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
  const add = (parent, ...children) => { parent.append(...children.filter(c => c)); return parent; };
  const count = n => n.toLocaleString('en');

  async function unpack(id) {   // base64 of gzip of JSON
    const packed = atob($(id).textContent), bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
  }

  if (!window.DecompressionStream) { $('loading').textContent = 'This browser is too old for the examples: it cannot unpack gzip. The tables above are complete.'; return; }
  const { examples, methods, graders, filters } = await unpack('data');
  const by = Object.fromEntries(methods.map(m => [m.name, m]));
  const place = new Map(examples.map((e, n) => [e.id, n]));
  const state = { set: '', method: $('method').value, grader: $('grader').value, filter: '', words: [], current: -1 };

  // ---- which examples are shown
  const flags = e => { const f = e.flags[''] ?? e.flags[state.method]; return typeof f === 'object' ? f[state.grader] ?? Object.values(f)[0] : f ?? 0; };
  const grade = voice => voice.grades[state.grader] ?? Object.values(voice.grades)[0];
  const right = outcome => typeof outcome === 'number' ? outcome >= 1 : outcome === 'right';
  const text = e => e.text ??= [e.id, e.prompt, e.reference, e.solution, e.by, ...e.voices.map(v => v.text)].join('\n').toLowerCase();
  const has = (e, filter) => !filter || (flags(e) >> filters.findIndex(f => f.name === filter)) & 1;
  const wanted = e => (!state.set || e.set === state.set) && state.words.every(w => text(e).includes(w));
  let found = new Set();

  // ---- maths: only what stands between delimiters (or in \boxed{}) is drawn; what cannot be read stays text
  const OPEN = /\$\$|\\\[|\\\(|\\boxed\s?\{|\\begin\{(equation|align|gather|cases|[pbvV]?matrix|array)\*?\}|\$(?=[^\s$])/g;
  const CLOSE = { '$$': '$$', '\\[': '\\]', '\\(': '\\)' };
  function closing(s, start, open) {   // where the maths that `open` begins at `start` ends; -1: nowhere near
    const from = start + open.length, near = s.slice(from, from + 2000);
    let at;
    if (open in CLOSE) { at = near.indexOf(CLOSE[open]); return at < 1 ? -1 : from + at + 2; }
    if (open.startsWith('\\begin')) { const end = open.replace('\\begin', '\\end'); at = near.indexOf(end); return at < 0 ? -1 : from + at + end.length; }
    if (open.startsWith('\\boxed')) {
      for (let depth = 1, i = 0; i < near.length; i++) if (near[i - 1] !== '\\' && (near[i] === '{' || near[i] === '}') && !(depth += near[i] === '{' ? 1 : -1)) return from + i + 1;
      return -1;
    }
    if (/[\w\\$]/.test(s[start - 1] ?? ' ')) return -1;   // $5 is money more often than maths: pandoc's rule
    for (at = near.indexOf('$'); at > 0 && near[at - 1] === '\\'; at = near.indexOf('$', at + 1));
    return at < 1 || /\s/.test(near[at - 1]) || /[\d$]/.test(near[at + 1] ?? '') || /\n\s*\n/.test(near.slice(0, at)) ? -1 : from + at + 1;
  }
  function formula(source, open) {   // an element, or null if it is no TeX
    const inner = open.startsWith('\\b') ? source : source.slice(open.length, -open.length);
    const words = inner.replace(/^(\\boxed\s?)\{([^\\{}$]*[a-z]{3,}[^\\{}$]*)\}$/i, '$1{\\text{$2}}').replace(/(\\boxed\s?\{)\$(.*)\$\}$/, '$1$2}');
    const box = make('span', 'maths');
    box.title = source.slice(0, 300);
    try { temml.render(words, box, { displayMode: open === '$$' || open === '\\[' || open.startsWith('\\begin'), throwOnError: true, trust: false, maxSize: [20, 20], maxExpand: 300 }); }
    catch (error) { return null; }   // a model's TeX is often broken: its text is shown as it is
    return box;
  }
  function marked(target, s) {   // text, with the words one searches for marked
    if (!state.words.length) { target.append(s); return; }
    const low = s.toLowerCase();
    if (low.length !== s.length) { target.append(s); return; }   // a letter whose small form is longer: positions would be off
    for (let i = 0; i < s.length;) {
      const hits = state.words.map(w => [low.indexOf(w, i), w.length]).filter(h => h[0] >= 0).sort((a, b) => a[0] - b[0]);
      if (!hits.length) { target.append(s.slice(i)); return; }
      const [at, length] = hits[0];
      target.append(s.slice(i, at), make('mark', '', s.slice(at, at + length)));
      i = at + length;
    }
  }
  function write(target, s) {   // text and maths
    let done = 0, m;
    OPEN.lastIndex = 0;
    while ((m = OPEN.exec(s))) {
      const end = closing(s, m.index, m[0]), drawn = end > 0 ? formula(s.slice(m.index, end), m[0].slice(0, 6)) : null;
      if (!drawn) continue;
      marked(target, s.slice(done, m.index)); target.append(drawn);
      done = OPEN.lastIndex = end;
    }
    marked(target, s.slice(done));
    return target;
  }
  function prose(s, cls = 'prose') {
    const box = make('div', cls);
    if (!s) return add(box, make('em', 'none', 'nothing was written'));
    write(box, s.slice(0, SHOWN));
    if (s.length <= SHOWN) return box;
    const more = make('button', 'more', `… show all ${count(s.length)} characters`);
    more.type = 'button';
    more.onclick = () => { box.replaceChildren(s); box.classList.add('long'); box.tabIndex = 0; };
    return add(box, more);
  }

  // ---- one example
  const WORDS = { right: 'right', wrong: 'wrong', no_answer: 'no answer', timeout: 'not decided in time' };
  const badge = (label, kind = '', title = '') => { const b = make('span', `badge ${kind}`, ({ good: '✓ ', bad: '✗ ' }[kind] ?? '') + label); b.title = title; return b; };
  function grades(v) {
    const list = make('span', 'badges');
    for (const [g, outcome] of Object.entries(v.grades)) {
      const answer = v.found[g];
      list.append(badge((graders[g] ?? g) + (graders[g] === '' ? '' : ': ') + (WORDS[outcome] ?? outcome) + (answer ? ` (${answer.slice(0, 40)})` : ''), right(outcome) ? 'good' : 'bad', answer ? `answer found: ${answer.slice(0, 500)}` : ''));
    }
    return list;
  }
  function voice(v) {
    const m = by[v.by] ?? { label: v.by, color: 'currentColor' }, card = make('section', 'voice');
    card.dataset.by = v.by;
    card.style.setProperty('--hue', m.color);
    const head = add(make('header'), make('h4', '', m.label), grades(v));
    if (v.verdict) head.append(badge(`verdict: ${v.verdict}`));
    if (v.leaks) head.append(badge('states the answer', 'warn'));
    if (v.finish === 'length') head.append(badge('cut off at the token limit', 'warn'));
    else if (v.finish && !['stop', 'scored'].includes(v.finish)) head.append(badge(`ended by ${v.finish}`, 'warn'));
    if (v.tokens) head.append(make('span', 'quiet', `${count(v.tokens)} tokens`));
    return add(card, head, prose(v.text));
  }
  function reference(s) {   // often bare TeX
    const bare = /\\[a-z]/i.test(s) && !s.includes('$') && s.length <= 300 ? formula(`$${s}$`, '$') : null;
    return bare ?? write(make('span'), s.length > 300 ? s.slice(0, 300) + ' …' : s);
  }
  let twins;   // prompt -> the examples of that problem
  function others(e) {
    twins ??= examples.reduce((m, x, n) => m.set(x.prompt, [...(m.get(x.prompt) ?? []), n]), new Map());
    const more = twins.get(e.prompt).map(n => examples[n]).filter(x => x !== e).slice(0, 12);
    if (!more.length) return null;
    const line = make('p', 'quiet', 'The same problem: ');
    more.forEach((x, i) => { const a = make('a', '', `${x.set}${x.sample ? `, sample ${x.sample}` : ''}${x.by ? `, ${x.by}` : ''}`); a.href = '#' + encodeURIComponent(x.id); line.append(i ? ' · ' : '', a); });
    return line;
  }
  function show(n, picked = true) {
    const e = examples[n], pane = $('example');
    state.current = n;
    const link = make('a', 'id', e.id);
    link.href = '#' + encodeURIComponent(e.id); link.title = 'link to this example';
    const met = filters.filter(f => has(e, f.name)).map(f => badge(f.name, '', f.meaning));
    const cards = add(make('div', 'voices'), ...e.voices.map(voice));
    cards.classList.toggle('steps', '' in e.flags);
    const solution = e.solution ? add(make('details'), make('summary', '', 'worked solution'), prose(e.solution)) : null;
    pane.replaceChildren(
      add(make('p', 'where quiet'), `${e.set}${e.sample ? `, sample ${e.sample}` : ''} · `, link),
      add(make('h3'), 'Problem'), prose(e.prompt, 'prose problem'),
      add(make('p', 'answer'), make('span', 'quiet', 'reference answer '), e.reference === null ? make('em', 'quiet', 'none') : reference(e.reference)),
      ...[solution, others(e), add(make('p', 'badges'), ...met), e.by ? make('p', 'quiet', `teacher: ${e.by}`) : null].filter(x => x), cards);
    pane.scrollTop = 0;
    if (picked) history.replaceState(null, '', '#' + encodeURIComponent(e.id));
    for (const row of document.querySelectorAll('#list .tabulator-row')) row.classList.toggle('current', row.dataset.n === String(n));
    place_of();
    if (picked) $('said').textContent = `Example ${e.id}`;
  }
  const order = () => table.getSorters().length ? table.getRows('active').map(r => r.getData().n) : [...found];   // unsorted, they stand as they came
  function place_of() {
    const shown = order(), at = shown.indexOf(state.current);
    $('position').textContent = shown.length ? `${at < 0 ? '–' : count(at + 1)} of ${count(shown.length)}` : 'none';
    $('previous').disabled = at === 0 || !shown.length; $('next').disabled = at === shown.length - 1;
  }
  function step(by) {
    const shown = order(), at = shown.indexOf(state.current), to = at < 0 ? 0 : at + by;
    if (to < 0 || to >= shown.length) return;
    show(shown[to]);
    table.scrollToRow(shown[to], 'nearest', false).catch(() => {});   // the row may have been filtered out meanwhile
  }

  // ---- the list
  function marks(cell) {
    const box = make('span', 'marks');
    for (const v of examples[cell.getValue()].voices) {
      const outcome = grade(v);
      if (outcome === undefined) continue;
      const m = by[v.by] ?? { label: v.by, color: 'currentColor' }, dot = make('span', right(outcome) ? 'dot full' : 'dot', right(outcome) ? '✓' : '✗');
      dot.style.setProperty('--hue', m.color); dot.title = `${m.label}: ${WORDS[outcome] ?? outcome}`;
      box.append(dot);
    }
    return box;
  }
  const plain = cell => document.createTextNode(cell.getValue());
  const table = new Tabulator('#list', {
    data: examples.map((e, n) => ({ n, problem: e.prompt.slice(0, 140).replace(/\s+/g, ' '), set: e.set + (e.sample ? ` #${e.sample}` : ''), marks: n })), index: 'n',
    height: '100%', layout: 'fitColumns', responsiveLayout: 'hide', placeholder: 'No example fits.', headerSortClickElement: 'header', columnDefaults: { headerHozAlign: 'left', resizable: false },
    columns: [{ title: 'Problem', field: 'problem', formatter: plain, widthGrow: 3, minWidth: 180, responsive: 0 }, { title: 'Set', field: 'set', formatter: plain, width: 100, responsive: 2 },
      { title: 'Grades', field: 'marks', formatter: marks, responsive: 1, width: Math.min(160, 48 + 20 * Math.max(3, ...examples.slice(0, 500).map(e => e.voices.filter(v => Object.keys(v.grades).length).length))),
        sorter: (a, b) => examples[a].voices.filter(v => right(grade(v))).length - examples[b].voices.filter(v => right(grade(v))).length }],
    rowFormatter: row => { const e = row.getElement(), { n } = row.getData(); e.dataset.n = n; e.classList.toggle('current', n === state.current); },
  });
  table.on('dataSorted', () => { setTimeout(place_of); });
  table.on('rowClick', (event, row) => show(row.getData().n));

  // ---- filters
  function refresh() {
    const rows = examples.filter(wanted), passed = filters.map(() => 0);
    for (const bits of rows.map(flags)) filters.forEach((f, i) => { passed[i] += (bits >> i) & 1; });
    const number = name => count(name ? passed[filters.findIndex(f => f.name === name)] : rows.length);
    for (const b of document.querySelectorAll('#filters button')) {
      const name = b.dataset.filter;
      b.querySelector('b').textContent = number(name);
      b.setAttribute('aria-pressed', name === state.filter);
    }
    for (const cell of document.querySelectorAll('[data-count]')) cell.textContent = number(cell.dataset.count);
    $('meaning').textContent = filters.find(f => f.name === state.filter)?.meaning ?? 'Every example of the chosen set that holds all the words.';
    found = new Set(rows.filter(e => has(e, state.filter)).map(e => place.get(e.id)));
    if (found.size < examples.length || table.getFilters().length) table.setFilter(data => found.has(data.n));
    place_of();
    if (!found.has(state.current) && found.size) show(order()[0], false);
    else if (state.current >= 0) show(state.current, false);
    if (!found.size) { state.current = -1; $('example').replaceChildren(make('p', 'quiet', 'No example fits. Take out a word, or choose another filter.')); place_of(); }
  }
  for (const name of ['set', 'method', 'grader']) $(name).onchange = event => { state[name] = event.target.value; refresh(); };
  for (const b of document.querySelectorAll('#filters button')) b.onclick = () => { state.filter = b.dataset.filter; refresh(); };
  let waiting;
  $('search').oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => { state.words = ($('search').value.toLowerCase().match(/"[^"]+"|\S+/g) ?? []).map(w => w.replace(/^"|"$/g, '')).filter(w => w); refresh(); }, 150); };
  $('previous').onclick = () => step(-1); $('next').onclick = () => step(1);

  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select, textarea')) return;
    const inList = event.target.closest('#list'), move = { ArrowRight: 1, ArrowLeft: -1, ...(inList ? { ArrowDown: 1, ArrowUp: -1 } : {}) }[event.key];
    if (event.key === '/') { event.preventDefault(); $('search').focus(); }
    else if (move && !event.target.closest('.scroll, .long')) { event.preventDefault(); step(move); }
  });
  function follow() {   // the example that the address names
    let id; try { id = decodeURIComponent(location.hash.slice(1)); } catch (error) { return false; }   // not an address of ours
    if (!place.has(id)) return false;
    if (place.get(id) !== state.current) {
      if (!found.has(place.get(id))) { Object.assign(state, { set: '', filter: '', words: [] }); $('set').value = ''; $('search').value = ''; refresh(); }
      show(place.get(id)); table.scrollToRow(place.get(id), 'center', false).catch(() => {});
    }
    $('browser').scrollIntoView();
    return true;
  }
  table.on('tableBuilt', () => {
    $('loading').remove(); $('browser').hidden = false; table.redraw(true);
    refresh(); follow();
    performance.mark('usable'); document.documentElement.dataset.ready = 'yes';
  });
  window.addEventListener('hashchange', follow);
})();
