//! sysctl.d text (sysctl.d(5)): one `key = value` a line.
//!
//! `#` and `;` begin comment lines. The separator of a key is whichever of `.` and `/` comes
//! first in it; the other one then stands for the first inside a component, so that
//! `net.ipv4.conf.eth0/100.rp_filter` and `net/ipv4/conf/eth0.100/rp_filter` are the same. A `-`
//! in front of a key turns an error in its value into a warning. `*` as an interface stands for
//! all of them but those that the same file names, or excludes by `-key` alone.

use super::table::{self, Kind, Parameter, Support};
use super::{Sysctls, Value};
use crate::diagnostic::{Diagnostic, Place, Report, Severity, Source};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// What to say of a key that nobody knows.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// A warning: sysctl.d files may hold anything.
    Warn,
    /// An error: the text was written for the gateway.
    Refuse,
}

/// Settings collected from one text after the other; a later one wins.
#[derive(Debug, Default)]
pub struct Assignments {
    /// What they come to.
    pub sysctls: Sysctls,
    /// Interfaces that keys named, to be compared with those that exist.
    pub interfaces: Vec<(String, Place)>,
}

/// A setting, or with `value` absent the exclusion of a key from patterns.
struct Line {
    key: String,
    key_place: Place,
    value: Option<(String, Place)>,
    lenient: bool,
}

impl Assignments {
    /// Reads a file's text.
    pub fn read(&mut self, source: &Arc<Source>, report: &mut Report) {
        let lines = lines(source, report);
        let named: BTreeSet<String> = lines.iter().map(|l| l.key.clone()).collect();
        for Line { key, key_place, value, lenient } in lines {
            let Some((text, place)) = value else { continue };
            let mut found = Report::default();
            let setting = Setting { key: &key, key_place, text: &text, place };
            self.set(&setting, Unknown::Warn, &named, &mut found);
            for mut diagnostic in found.diagnostics {
                if lenient {
                    diagnostic.severity = Severity::Warning;
                }
                report.push(diagnostic);
            }
        }
    }

    /// One setting from another kind of text.
    pub fn assign(&mut self, key: (&str, Place), value: (&str, Place), report: &mut Report) {
        let name = canonical(key.0);
        let setting = Setting { key: &name, key_place: key.1, text: value.0, place: value.1 };
        self.set(&setting, Unknown::Refuse, &BTreeSet::new(), report);
    }

    fn set(
        &mut self,
        setting: &Setting<'_>,
        unknown: Unknown,
        named: &BTreeSet<String>,
        report: &mut Report,
    ) {
        let Some(parameter) = table::find(setting.key) else {
            report.push(setting.unknown(unknown));
            return;
        };
        if let Support::Ignored(why) = parameter.support {
            let name = dotted(setting.key);
            report.push(setting.key_place.warning(format!("`{name}` is ignored: {why}")));
            return;
        }
        let value = match read_value(parameter, setting) {
            Ok(value) => value,
            Err(error) => return report.push(*error),
        };
        match interface_of(parameter, setting.key) {
            Some("*") => self.set_pattern(parameter, value, named),
            Some(name) if name.contains(['*', '?', '[']) => report.push(
                setting
                    .key_place
                    .error("a pattern must be a whole `*`")
                    .expected("`*` or the name of an interface"),
            ),
            Some(name) => {
                if !matches!(name, "all" | "default" | "lo") {
                    self.interfaces.push((name.to_owned(), setting.key_place.clone()));
                }
                self.sysctls.set(setting.key, value);
            }
            None => self.sysctls.set(setting.key, value),
        }
    }

    /// `*` takes in `all` and `default` and with that every interface that has no value of its
    /// own; values of interfaces from earlier files give way.
    fn set_pattern(&mut self, parameter: &Parameter, value: Value, named: &BTreeSet<String>) {
        self.sysctls.set.retain(|key, _| {
            !parameter.matches(key)
                || named.contains(key)
                || matches!(interface_of(parameter, key), Some("all" | "default") | None)
        });
        for interface in ["all", "default"] {
            let key = parameter.pattern.replace("{if}", interface);
            if !named.contains(&key) {
                self.sysctls.set(&key, value);
            }
        }
    }
}

/// A key with its value, and where they stand.
struct Setting<'a> {
    key: &'a str,
    key_place: Place,
    text: &'a str,
    place: Place,
}

impl Setting<'_> {
    fn unknown(&self, unknown: Unknown) -> Diagnostic {
        let interface = self.key.split('/').nth(3).unwrap_or("all");
        let known: Vec<String> = table::PARAMETERS
            .iter()
            .filter(|p| !p.pattern.ends_with('*'))
            .map(|p| dotted(&p.pattern.replace("{if}", interface)))
            .collect();
        let name = dotted(self.key);
        let mut diagnostic = match unknown {
            Unknown::Refuse => self.key_place.error(format!("unknown kernel parameter `{name}`")),
            Unknown::Warn => self
                .key_place
                .warning(format!("`{name}` is ignored: no kernel parameter that is known here")),
        };
        diagnostic = diagnostic.nearest(&name, known.iter().map(String::as_str));
        diagnostic
    }
}

impl Sysctls {
    /// Sets a parameter as a write to `/proc/sys` does.
    fn set(&mut self, key: &str, value: Value) {
        // devinet_sysctl_forward: `ip_forward` and `conf.all.forwarding` are one thing, and
        // writing it overwrites every interface's value. IPv6 does the same with `conf.all`.
        let family = match key {
            "net/ipv4/ip_forward" | "net/ipv4/conf/all/forwarding" => Some("net/ipv4"),
            "net/ipv6/conf/all/forwarding" => Some("net/ipv6"),
            _ => None,
        };
        if let Some(family) = family {
            let conf = format!("{family}/conf/");
            self.set.retain(|key, _| !(key.starts_with(&conf) && key.ends_with("/forwarding")));
            self.set.insert(format!("{conf}all/forwarding"), value);
            self.set.insert(format!("{conf}default/forwarding"), value);
            if family == "net/ipv4" {
                self.set.insert("net/ipv4/ip_forward".to_owned(), value);
            }
            return;
        }
        self.set.insert(key.to_owned(), value);
    }
}

fn lines(source: &Arc<Source>, report: &mut Report) -> Vec<Line> {
    let mut out = Vec::new();
    let mut offset = 0;
    for line in source.text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let body = trimmed(line, 0..line.len());
        let text = &line[body.clone()];
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        let at = |span: Range<usize>| source.place(start + span.start..start + span.end);
        let lenient = text.starts_with('-');
        let from = body.start + usize::from(lenient);
        let equals = text.find('=').map(|i| body.start + i);
        let key = trimmed(line, from..equals.unwrap_or(body.end));
        let value = equals.map(|i| trimmed(line, i + 1..body.end));
        if key.is_empty() {
            report.push(at(body).error("a name is missing").expected("`key = value`"));
            continue;
        }
        match value {
            Some(value) if value.is_empty() => report.push(
                at(value)
                    .error(format!("`{}` has no value", &line[key]))
                    .expected("a value after `=`"),
            ),
            None if !lenient => report
                .push(at(body.end..body.end).error("`=` is missing").expected("`key = value`")),
            value => out.push(Line {
                key: canonical(&line[key.clone()]),
                key_place: at(key),
                value: value.map(|v| (line[v.clone()].to_owned(), at(v))),
                lenient,
            }),
        }
    }
    out
}

fn trimmed(line: &str, span: Range<usize>) -> Range<usize> {
    let text = &line[span.clone()];
    let start = span.start + (text.len() - text.trim_start().len());
    start..start.max(span.start + text.trim_end().len())
}

/// The name with its components joined by `/`.
pub(super) fn canonical(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The name as people write it: with dots, unless a component has one.
fn dotted(key: &str) -> String {
    if key.contains('.') { key.to_owned() } else { key.replace('/', ".") }
}

/// What stands for `{if}` in a key that matches the parameter.
fn interface_of<'k>(parameter: &Parameter, key: &'k str) -> Option<&'k str> {
    let at = parameter.pattern.split('/').position(|part| part == "{if}")?;
    key.split('/').nth(at)
}

fn read_value(parameter: &Parameter, setting: &Setting<'_>) -> Result<Value, Box<Diagnostic>> {
    let fail = |expected: String| {
        let message = format!("`{}` is no value for `{}`", setting.text, dotted(setting.key));
        Box::new(setting.place.error(message).expected(expected))
    };
    match parameter.kind {
        Kind::Number { min, max, unit, .. } => {
            let number = read_number(setting.text).filter(|n| (min..=max).contains(n));
            let unit = if unit.is_empty() { String::new() } else { format!(" of {unit}") };
            number
                .map(Value::Number)
                .ok_or_else(|| fail(format!("a number{unit} from {min} to {max}")))
        }
        Kind::Set(_) => read_set(setting.text)
            .map(Value::Set)
            .ok_or_else(|| fail("numbers and ranges from 0 to 255, as in 0-1,3-127".to_owned())),
        // Only parameters that are ignored have values that nobody looks at.
        Kind::Any => Ok(Value::Number(0)),
    }
}

/// As the kernel reads it: decimal, `0x` hexadecimal or `0` octal.
fn read_number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

fn read_set(text: &str) -> Option<[u64; 4]> {
    let mut words = [0; 4];
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u8, u8) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last {
            return None;
        }
        for n in first..=last {
            words[usize::from(n / 64)] |= 1 << (n % 64);
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysctl::RpFilter;
    use std::time::Duration;
    use tidegate_packet::Family::{V4, V6};

    fn read(text: &str) -> (Assignments, Vec<String>) {
        let mut all = Assignments::default();
        let mut report = Report::default();
        all.read(&Source::new("s", text), &mut report);
        (all, report.diagnostics.iter().map(ToString::to_string).collect())
    }

    fn read_clean(text: &str) -> Sysctls {
        let (all, said) = read(text);
        assert_eq!(said, Vec::<String>::new());
        all.sysctls
    }

    #[test]
    fn the_page_file_is_read() {
        let s = read_clean("net.ipv4.conf.all.rp_filter=1\nnet.ipv4.icmp_echo_ignore_all = 1\n");
        assert_eq!(s.rp_filter("eth0"), RpFilter::Strict);
        assert!(s.icmp_echo_ignore_all(V4));
        assert!(!s.icmp_echo_ignore_all(V6));
    }

    #[test]
    fn defaults_are_the_kernels_but_forwarding() {
        let s = Sysctls::default();
        assert_eq!(s.rp_filter("eth0"), RpFilter::Off);
        assert!(s.ip_forward() && s.forwarding(V4, "eth0") && s.forwarding(V6, "eth0"));
        assert!(s.icmp_echo_ignore_broadcasts(V4) && !s.icmp_echo_ignore_broadcasts(V6));
        assert_eq!(s.icmp_ratelimit(V4), Duration::from_secs(1));
        assert_eq!(s.icmp_ratelimit(V6), Duration::from_millis(100));
        let covers = |family, kind: u8| {
            s.icmp_ratemask(family)[usize::from(kind / 64)] >> (kind % 64) & 1 == 1
        };
        let limited: Vec<u8> = (0..=255).filter(|k| covers(V4, *k)).collect();
        assert_eq!(limited, [3, 4, 11, 12]);
        let free: Vec<u8> = (0..=255).filter(|k| !covers(V6, *k)).collect();
        assert_eq!(free, [vec![2], (128..=255).collect()].concat());
        assert_eq!((s.icmp_msgs_per_sec(), s.icmp_msgs_burst()), (1000, 50));
        assert_eq!(s.ip_default_ttl(), 64);
        assert!(!s.invalid_bypasses_nat());
        assert_eq!(s.conntrack("tcp_timeout_established"), Some(432_000));
        assert_eq!(s.conntrack("tcp_timeout_etsablished"), None);
        assert_eq!(s.conntrack("log_invalid"), None);
        assert_eq!(s.conntrack("gre_timeout"), Some(30));
        assert!(s.conntrack_all().any(|row| row == ("udp_timeout_stream", 120)));
    }

    #[test]
    fn all_default_and_the_interface_combine_as_in_the_kernel() {
        for (text, interface, want) in [
            ("net.ipv4.conf.all.rp_filter = 2", "a", RpFilter::Loose),
            ("net.ipv4.conf.a.rp_filter = 1", "a", RpFilter::Strict),
            ("net.ipv4.conf.a.rp_filter = 1", "b", RpFilter::Off),
            ("net.ipv4.conf.all.rp_filter=1\nnet.ipv4.conf.a.rp_filter=2", "a", RpFilter::Loose),
            ("net.ipv4.conf.all.rp_filter=1\nnet.ipv4.conf.a.rp_filter=0", "a", RpFilter::Strict),
            ("net.ipv4.conf.default.rp_filter=1", "a", RpFilter::Strict),
            ("net.ipv4.conf.default.rp_filter=1\nnet.ipv4.conf.a.rp_filter=0", "a", RpFilter::Off),
            ("net/ipv4/conf/a.7/rp_filter = 1", "a.7", RpFilter::Strict),
            ("net.ipv4.conf.a/7.rp_filter = 1", "a.7", RpFilter::Strict),
            ("net.ipv4.conf.*.rp_filter = 2", "a", RpFilter::Loose),
            // systemd's own default file: loose everywhere, `all` left alone.
            (
                "net.ipv4.conf.*.rp_filter = 2\n-net.ipv4.conf.all.rp_filter\n\
                 net.ipv4.conf.a.rp_filter = 0",
                "a",
                RpFilter::Off,
            ),
        ] {
            assert_eq!(read_clean(text).rp_filter(interface), want, "{text}");
        }
    }

    #[test]
    fn forwarding_follows_the_last_write() {
        for (text, v4, v6) in [
            ("net.ipv4.ip_forward = 0", false, true),
            ("net.ipv4.conf.all.forwarding = 0", false, true),
            ("net.ipv4.ip_forward=0\nnet.ipv4.conf.a.forwarding=1", true, true),
            ("net.ipv4.conf.a.forwarding=1\nnet.ipv4.ip_forward=0", false, true),
            ("net.ipv6.conf.all.forwarding=0\nnet.ipv6.conf.a.forwarding=1", true, false),
        ] {
            let s = read_clean(text);
            assert_eq!((s.forwarding(V4, "a"), s.forwarding(V6, "a")), (v4, v6), "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        for (text, want) in [
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("1 2", None),
            ("--1", None),
            ("-+1", None),
            ("0x", None),
            ("0x-1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(read_number(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, want) in [
            (
                "# c\n; c\n\n net.ipv4.conf.all.rp_filter = 3\n",
                "error: s:4:32: `3` is no value for `net.ipv4.conf.all.rp_filter`; expected a \
                 number from 0 to 2",
            ),
            (
                "net.ipv4.ip_forward = yes",
                "error: s:1:23: `yes` is no value for `net.ipv4.ip_forward`; expected a number \
                 from 0 to 1",
            ),
            (
                "-net.ipv4.ip_forward = 2",
                "warning: s:1:24: `2` is no value for `net.ipv4.ip_forward`; expected a number \
                 from 0 to 1",
            ),
            (
                "net.netfilter.nf_conntrack_udp_timeout = 1m # a minute",
                "error: s:1:42: `1m # a minute` is no value for \
                 `net.netfilter.nf_conntrack_udp_timeout`; expected a number of seconds from 0 \
                 to 2147483",
            ),
            (
                "net.ipv6.icmp.ratemask = 3-1",
                "error: s:1:26: `3-1` is no value for `net.ipv6.icmp.ratemask`; expected numbers \
                 and ranges from 0 to 255, as in 0-1,3-127",
            ),
            ("net.ipv4.ip_forward", "error: s:1:20: `=` is missing; expected `key = value`"),
            (
                "net.ipv4.ip_forward =",
                "error: s:1:22: `net.ipv4.ip_forward` has no value; expected a value after `=`",
            ),
            ("= 1", "error: s:1:1: a name is missing; expected `key = value`"),
            (
                "net.ipv4.conf.all.rp_fliter = 1",
                "warning: s:1:1: `net.ipv4.conf.all.rp_fliter` is ignored: no kernel parameter \
                 that is known here (did you mean `net.ipv4.conf.all.rp_filter`?)",
            ),
            (
                "net.ipv4.tcp_syncookies = 1",
                "warning: s:1:1: `net.ipv4.tcp_syncookies` is ignored: it concerns a host's own \
                 sockets, and the gateway has none",
            ),
            (
                "net.ipv4.conf.eth*.rp_filter = 1",
                "error: s:1:1: a pattern must be a whole `*`; expected `*` or the name of an \
                 interface",
            ),
        ] {
            assert_eq!(read(text).1, [want], "{text}");
        }
    }

    #[test]
    fn a_mention_of_an_interface_is_remembered() {
        let (all, _) = read("net.ipv4.conf.eth9.rp_filter = 1\nnet.ipv4.conf.all.rp_filter = 1");
        assert_eq!(all.interfaces.len(), 1);
        assert_eq!(all.interfaces[0].0, "eth9");
    }
}
