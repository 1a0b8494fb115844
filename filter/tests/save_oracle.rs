//! iptables itself is the judge of what rules are accepted and how they are saved.
//!
//! Every line of `corpus/*.txt` and every file of a folder of published rulesets is loaded by
//! `iptables-legacy-restore` in a fresh network namespace and saved again; `load` must accept the
//! same and `save` must give the same bytes apart from the time stamp.
//!
//! A corpus line starts with its table. `deny` before it: iptables takes it, and it is refused here
//! because it can't be honoured. `allow` before it: iptables 1.8.9 refuses a form that older versions
//! took, and that older rulesets have.

mod oracle;

use std::fmt::Write as _;
use std::path::PathBuf;

use oracle::{Oracle, RESET, lines, sections};
use tidegate_filter::{SaveStyle, Sets, Source, guess_family, load, load_with};
use tidegate_packet::{Family, Instant};

fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    }
}

/// Loads each text in a namespace of its own state and gives back what is saved, or `None` if it
/// was refused.
fn ask(oracle: Oracle, family: Family, texts: &[String], sets: &[String]) -> Vec<Option<String>> {
    let (save, folder) = (program(family), oracle.folder());
    let mut script = String::from("set -u\nexec 2>/dev/null\n");
    for set in sets {
        let kind = if family == Family::V4 { "inet" } else { "inet6" };
        let _ = writeln!(script, "ipset create {set} hash:net family {kind} timeout 0");
    }
    folder.write("reset", RESET);
    for (n, text) in texts.iter().enumerate() {
        folder.write(&format!("{n}.in"), text);
        // Table by table, since an ordinary user may not read the list of tables.
        let _ = writeln!(
            script,
            "if {save}-restore < {n}.in >/dev/null; then\n\
             for t in raw mangle nat filter security; do {save}-save -t $t; done > {n}.out; fi\n\
             {save}-restore < reset"
        );
    }
    folder.script(&script);
    (0..texts.len()).map(|n| folder.read(&format!("{n}.out"))).collect()
}

fn save(text: &str, family: Family) -> Result<String, String> {
    save_with(text, family, &made(family, &corpus_sets()))
}

/// The sets that the oracle's script creates.
fn made(family: Family, sets: &[String]) -> Sets {
    let kind = if family == Family::V4 { "inet" } else { "inet6" };
    let made = Sets::new();
    let create = |set: &String| format!("create {set} hash:net family {kind} timeout 0 -exist\n");
    made.restore(&sets.iter().map(create).collect::<String>(), Instant::ZERO).unwrap();
    made
}

/// The sets that corpus lines name.
fn corpus_sets() -> Vec<String> {
    vec!["one".into(), "two".into()]
}

fn save_with(text: &str, family: Family, sets: &Sets) -> Result<String, String> {
    let style = SaveStyle { stamp: "now", rule_counters: false };
    match load_with(Source { name: "test", text }, family, sets) {
        Ok(loaded) => Ok(loaded.ruleset.save(None, style)),
        Err(errors) => Err(errors.iter().map(|e| format!("{e}; ")).collect()),
    }
}

/// What differs between the oracle's answer and ours, if anything.
fn difference(theirs: Option<&String>, ours: &Result<String, String>) -> Option<String> {
    match (theirs, ours) {
        (None, Err(_)) => None,
        (None, Ok(_)) => Some("iptables refuses it".into()),
        (Some(_), Err(why)) => Some(format!("iptables takes it: {why}")),
        (Some(theirs), Ok(ours)) => {
            let (theirs, ours) = (sections(theirs), sections(ours));
            (theirs != ours).then(|| {
                let missing = theirs.concat();
                let ours = ours.concat();
                let lines: Vec<_> =
                    missing.lines().filter(|l| !ours.lines().any(|o| o == *l)).collect();
                let extra: Vec<_> =
                    ours.lines().filter(|l| !missing.lines().any(|o| o == *l)).collect();
                format!("iptables saves {lines:#?}, we save {extra:#?}")
            })
        }
    }
}

fn corpus(name: &str, family: Family) {
    let text = oracle::corpus(name);
    let mut cases = Vec::new();
    for line in lines(&text) {
        let (mode, line) = match line.split_once(' ') {
            Some((mode @ ("deny" | "allow"), rest)) => (mode, rest),
            _ => ("same", line),
        };
        let (table, rule) = line.split_once(' ').unwrap_or((line, ""));
        let rules = format!("*{table}\n{rule}\nCOMMIT\n");
        cases.push((mode, line, rules));
    }
    assert!(cases.len() > 100, "the corpus is there");
    // Whatever iptables says, what is saved must load again and save the same.
    for (_, line, rules) in &cases {
        if let Ok(saved) = save(rules, family)
            && !line.contains("\"a b\"")
        {
            assert_eq!(save(&saved, family).as_ref(), Ok(&saved), "{line}");
        }
    }
    let Some(oracle) = Oracle::iptables() else { return };
    let texts: Vec<_> = cases.iter().map(|(.., text)| text.clone()).collect();
    let answers = ask(oracle, family, &texts, &corpus_sets());
    let mut wrong = Vec::new();
    for ((mode, line, rules), theirs) in cases.iter().zip(&answers) {
        let ours = save(rules, family);
        let verdict = match *mode {
            "deny" => (theirs.is_none() || ours.is_ok()).then(|| "is not denied alone here".into()),
            "allow" => (theirs.is_some() || ours.is_err()).then(|| format!("{ours:?}")),
            _ => difference(theirs.as_ref(), &ours),
        };
        wrong.extend(verdict.map(|v| format!("{line}\n    {v}")));
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_ipv4_corpus_reads_as_iptables_reads_it() {
    corpus("v4.txt", Family::V4);
}

#[test]
fn the_ipv6_corpus_reads_as_ip6tables_reads_it() {
    corpus("v6.txt", Family::V6);
}

/// Whole files, with `%%` between them: what stands around the rules.
#[test]
fn odd_files_are_taken_or_refused_as_iptables_does() {
    let text = oracle::corpus("files.txt");
    let texts: Vec<_> = text.split("%%\n").map(|t| t.replace("<no newline>\n", "")).collect();
    let Some(oracle) = Oracle::iptables() else { return };
    let answers = ask(oracle, Family::V4, &texts, &[]);
    let mut wrong = Vec::new();
    for (text, theirs) in texts.iter().zip(&answers) {
        let ours = save(text, Family::V4);
        let found = match text.starts_with("# deny\n") {
            true => (theirs.is_none() || ours.is_ok()).then(|| "is not denied alone here".into()),
            false => difference(theirs.as_ref(), &ours),
        };
        wrong.extend(found.map(|d| format!("---\n{text}    {d}")));
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
}

/// Tables in the order a fresh namespace lists them, and the comment lines, byte for byte.
#[test]
fn a_whole_file_is_saved_byte_for_byte() {
    let Some(oracle) = Oracle::iptables() else { return };
    for (family, file) in
        [(Family::V4, "page.v4"), (Family::V4, "gateway.v4"), (Family::V6, "page.v6")]
    {
        let text = oracle::corpus(file);
        assert_eq!(guess_family(file, &text), family);
        let name = program(family);
        let run = |input: &str| {
            let folder = oracle.folder();
            folder.write("rules", input);
            let script = format!("{name}-restore -c < rules && {name}-save -c");
            let output = folder.command(&script).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let theirs = run(&text);
        let stamp = "Mon Nov 23 04:19:50 2026";
        let loaded = load(Source { name: file, text: &text }, family).unwrap();
        let counters = loaded.ruleset.new_counters();
        let style = SaveStyle { stamp, rule_counters: true };
        let ours = loaded.ruleset.save(Some(&counters), style);
        // Each of their lines has the second in which it was written.
        let stamped = |line: &str| match line.split_once(" on ") {
            Some((kind, _)) if line.starts_with("# ") => format!("{kind} on {stamp}\n"),
            _ => format!("{line}\n"),
        };
        let theirs: String = theirs.lines().map(stamped).collect();
        assert_eq!(ours, theirs, "{file}");
        // And what we save is what iptables loads.
        assert_eq!(run(&ours).lines().count(), ours.lines().count());
    }
}

/// Published rulesets, where a folder with them is named.
#[test]
fn published_rulesets_read_as_iptables_reads_them() {
    let Some(folder) = std::env::var_os("TIDEGATE_RULESETS").map(PathBuf::from) else {
        eprintln!("SKIPPED: no published rulesets (TIDEGATE_RULESETS names their folder)");
        return;
    };
    let index = std::fs::read_to_string(folder.join("INDEX.tsv")).unwrap();
    let Some(oracle) = Oracle::iptables() else { return };
    let mut wrong = Vec::new();
    for family in [Family::V4, Family::V6] {
        let suffix = if family == Family::V4 { ".v4" } else { ".v6" };
        let mut files = Vec::new();
        let mut sets = Vec::new();
        for line in index.lines().skip(1) {
            let fields: Vec<_> = line.split('\t').collect();
            if fields[0].ends_with(suffix) {
                files.push(fields[0]);
                sets.extend(fields.get(4).unwrap_or(&"").split_whitespace().map(str::to_owned));
            }
        }
        let read = |file: &&str| {
            String::from_utf8_lossy(&std::fs::read(folder.join(file)).unwrap()).into_owned()
        };
        let texts: Vec<_> = files.iter().map(read).collect();
        let answers = ask(oracle, family, &texts, &sets);
        let made = made(family, &sets);
        for ((file, text), theirs) in files.iter().zip(&texts).zip(&answers) {
            let ours = save_with(text, family, &made);
            wrong.extend(difference(theirs.as_ref(), &ours).map(|d| format!("{file}: {d}")));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
