//! Reads `*.case` files.
//!
//! A file holds settings that all its cases share, then cases, each opened by `== name: what it
//! shows`. A case may add settings of its own and has steps:
//!
//! ```text
//! rules4 page-gateway                 tests/corpus/rules/page-gateway.rules (or `rules4 <<` … `end`)
//! rules6 none
//! sets <<                             lines of `ipset restore`, up to `end`
//! message NAME <<                     payload for `message NAME`, up to `end`; its lines end in
//!                                     CR LF, and $LENGTH is what follows the first empty one
//! sysctl net.ipv4.conf.all.rp_filter=1
//! mtu ppp0 1400
//! route 172.16.0.0/12 via 10.3.0.9 dev eth1
//! cookies                             the gateway draws sequence numbers of its own (SYNPROXY)
//! noroute                             without the default routes
//! unresolved 192.168.0.9              a host that doesn't answer
//! address eth0 172.20.0.1/24          a further address of the gateway
//! compare arp ndp                     those frames are looked at too, else they are noise
//! differs WHY                         Tidegate does otherwise for now; an error once it doesn't
//! lenient                             a step that refers to a packet that didn't come is left out
//! listed                              the connections are compared after every step
//!
//! == refused: a closed port is answered with a reset
//! eth0: ip 192.168.0.2 > 192.168.0.1 | tcp 1025 > 81 S seq 1000
//! -> eth0: tcp 81 > 1025 RA           the kernel's answer has these words, in this order
//! 5x eth0: ip 192.168.0.2 > 192.168.0.1 | icmp echo id 7 seq 1
//! -> *                                 whatever the kernel answers
//! wait 1.5s
//! $port = ppp0 sport                  a field of the last packet that left by ppp0
//! ppp0: ip 198.51.100.10 > 203.0.113.1 | udp 53 > $port
//! -> nothing
//! ```
//!
//! `frame.rs` lists the layers a frame is described by.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// One case: settings and steps.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's stem and the case's own name.
    pub name: String,
    /// Where it is written.
    pub file: PathBuf,
    /// What it shows.
    pub about: String,
    /// Rules, sysctls, changes to the topology.
    pub settings: Settings,
    /// What is done.
    pub steps: Vec<Step>,
}

/// What a case sets before its first step.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `iptables-save` text, empty for none.
    pub rules4: String,
    /// The same for IPv6.
    pub rules6: String,
    /// Payloads with their names.
    pub messages: Vec<(String, String)>,
    /// `ipset save` text, empty for none.
    pub sets: String,
    /// Names and values, in order.
    pub sysctls: Vec<(String, String)>,
    /// Interface and MTU.
    pub mtus: Vec<(String, u16)>,
    /// Further routes: destination, gateway, interface.
    pub routes: Vec<(String, Option<String>, String)>,
    /// The gateway draws sequence numbers of its own.
    pub cookies: bool,
    /// Without the topology's default routes.
    pub no_default_route: bool,
    /// Hosts without a neighbour entry.
    pub unresolved: Vec<String>,
    /// Further addresses of the gateway: interface, prefix.
    pub addresses: Vec<(String, String)>,
    /// ARP frames are part of the comparison.
    pub compare_arp: bool,
    /// Neighbour discovery is part of the comparison.
    pub compare_ndp: bool,
    /// What the names of the interfaces end in.
    pub tag: String,
    /// Why Tidegate does otherwise for now; an error as soon as it doesn't.
    pub differs: Option<String>,
    /// A step that refers to a packet that didn't come is left out.
    pub lenient: bool,
    /// The connections are compared after every step.
    pub listed: bool,
}

/// One line that does something.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its line number.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What it does.
    pub action: Action,
    /// What is known of the outcome; `None` where the case says nothing.
    pub expect: Option<Vec<Expect>>,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Frames arrive.
    Inject {
        /// How many times.
        times: u32,
        /// Where.
        interface: String,
        /// The frame's layers, each split at blanks.
        layers: Vec<Vec<String>>,
    },
    /// Time passes.
    Wait(Duration),
    /// A variable takes a field of the last packet that left by an interface.
    Learn {
        /// The variable, without `$`.
        name: String,
        /// The interface.
        interface: String,
        /// The field.
        field: String,
    },
}

/// A documented outcome.
#[derive(Clone, Debug)]
pub enum Expect {
    /// A frame leaves by this interface and its summary has these words in this order.
    Frame(String, Vec<String>),
    /// Whatever comes.
    Anything,
}

/// Reads every case file under `corpus`, in the order of their names.
pub fn load_all(corpus: &Path) -> Result<Vec<Case>, String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus)
        .map_err(|e| format!("{}: {e}", corpus.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "case"))
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        cases.extend(parse(&file, &text, &corpus.join("rules"))?);
    }
    for (at, case) in cases.iter().enumerate() {
        if cases[..at].iter().any(|c| c.name == case.name) {
            return Err(format!("{}: two cases are called {}", case.file.display(), case.name));
        }
    }
    Ok(cases)
}

/// Reads the cases of one file's text.
pub fn parse(file: &Path, text: &str, rules: &Path) -> Result<Vec<Case>, String> {
    let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let mut shared = Settings::default();
    let mut cases: Vec<Case> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, raw)) = lines.next() {
        let line = at + 1;
        let fail = |why: String| format!("{}:{line}: {why}", file.display());
        let text = strip_comment(raw);
        if text.is_empty() {
            continue;
        }
        if let Some(title) = text.strip_prefix("==") {
            let (name, about) = title.split_once(':').unwrap_or((title, ""));
            cases.push(Case {
                name: format!("{stem}_{}", name.trim()),
                file: file.to_path_buf(),
                about: about.trim().to_owned(),
                settings: shared.clone(),
                steps: Vec::new(),
            });
            continue;
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let settings = cases.last_mut().map_or(&mut shared, |c| &mut c.settings);
        if let ["message", name, "<<"] = words[..] {
            settings.messages.push((name.to_owned(), message(&mut lines)));
        } else if words == ["sets", "<<"] {
            settings.sets = inline(&mut lines);
        } else if matches!(words[0], "rules4" | "rules6") {
            let found = match words.get(1) {
                Some(&"<<") => inline(&mut lines),
                Some(&"none") => String::new(),
                Some(name) => {
                    let path = rules.join(format!("{name}.rules"));
                    std::fs::read_to_string(&path)
                        .map_err(|e| fail(format!("{}: {e}", path.display())))?
                }
                None => return Err(fail("a name or << is missing".into())),
            };
            *(if words[0] == "rules4" { &mut settings.rules4 } else { &mut settings.rules6 }) =
                found;
        } else if !setting(settings, &words).map_err(&fail)? {
            let case = cases.last_mut().ok_or_else(|| fail("a step before the first ==".into()))?;
            step(case, line, text, &words).map_err(&fail)?;
        }
    }
    Ok(cases)
}

/// A comment starts at a `#` that follows a blank or starts the line.
fn strip_comment(line: &str) -> &str {
    let end = match line.find(" #") {
        _ if line.starts_with('#') => 0,
        Some(at) => at,
        None => line.len(),
    };
    line[..end].trim()
}

/// Rules written into the case, up to a line `end`.
fn inline<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> String {
    lines.map(|(_, l)| l.trim()).take_while(|l| *l != "end").map(|l| format!("{l}\n")).collect()
}

/// A message written into the case, up to a line `end`.
fn message<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>) -> String {
    let lines = lines.map(|(_, l)| l).take_while(|l| *l != "end");
    let text: String = lines.map(|l| format!("{l}\r\n")).collect();
    let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
    text.replace("$LENGTH", &body.to_string())
}

/// Takes a setting; says whether the line was one.
fn setting(settings: &mut Settings, words: &[&str]) -> Result<bool, String> {
    match words {
        ["sysctl", pair] => {
            let (name, value) = pair.split_once('=').ok_or("sysctl NAME=VALUE")?;
            settings.sysctls.push((name.to_owned(), value.to_owned()));
        }
        ["mtu", interface, mtu] => {
            let mtu = mtu.parse().map_err(|_| format!("{mtu} is no MTU"))?;
            settings.mtus.push(((*interface).to_owned(), mtu));
        }
        ["route", to, "via", via, "dev", dev] => {
            settings.routes.push(((*to).into(), Some((*via).into()), (*dev).into()));
        }
        ["route", to, "dev", dev] => settings.routes.push(((*to).into(), None, (*dev).into())),
        ["differs", why @ ..] => settings.differs = Some(why.join(" ")),
        ["cookies"] => settings.cookies = true,
        ["lenient"] => settings.lenient = true,
        ["listed"] => settings.listed = true,
        ["noroute"] => settings.no_default_route = true,
        ["unresolved", host] => settings.unresolved.push((*host).to_owned()),
        ["address", interface, prefix] => {
            settings.addresses.push(((*interface).into(), (*prefix).into()));
        }
        ["compare", what @ ..] => {
            for what in what {
                match *what {
                    "arp" => settings.compare_arp = true,
                    "ndp" => settings.compare_ndp = true,
                    other => return Err(format!("compare {other}?")),
                }
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Takes a step or what is expected of the one before it.
fn step(case: &mut Case, line: usize, text: &str, words: &[&str]) -> Result<(), String> {
    if let Some(rest) = text.strip_prefix("->") {
        let step = case.steps.last_mut().ok_or("an outcome without a step")?;
        let expect = step.expect.get_or_insert_default();
        match rest.trim() {
            "nothing" => {}
            "*" => expect.push(Expect::Anything),
            rest => {
                let (interface, words) = rest.split_once(':').ok_or("-> INTERFACE: WORDS")?;
                let words = words.split_whitespace().map(str::to_owned).collect();
                expect.push(Expect::Frame(interface.to_owned(), words));
            }
        }
        return Ok(());
    }
    let action = match words {
        ["wait", time] => {
            let seconds = time.strip_suffix('s').and_then(|t| t.parse::<f64>().ok());
            Action::Wait(Duration::from_secs_f64(seconds.ok_or("wait SECONDSs")?))
        }
        [variable, "=", interface, field] if variable.starts_with('$') => Action::Learn {
            name: variable[1..].to_owned(),
            interface: (*interface).to_owned(),
            field: (*field).to_owned(),
        },
        _ => inject(text)?,
    };
    case.steps.push(Step { line, text: text.to_owned(), action, expect: None });
    Ok(())
}

/// `[Nx ]INTERFACE: LAYER | LAYER …`
fn inject(text: &str) -> Result<Action, String> {
    let (head, layers) = text.split_once(": ").ok_or_else(|| format!("what is {text:?}?"))?;
    let (times, interface) = match head.split_once("x ") {
        Some((times, interface)) => (times.parse().map_err(|_| format!("{times}x?"))?, interface),
        None => (1, head),
    };
    let layers = layers
        .split(" | ")
        .map(|layer| layer.split_whitespace().map(str::to_owned).collect())
        .collect();
    Ok(Action::Inject { times, interface: interface.to_owned(), layers })
}
