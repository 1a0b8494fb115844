//! The programs that people and scripts know: `iptables` and its kin, against the running gateway.
//!
//! They are called as `tidegate iptables …`, or by a link of that name (`tidegate install-names`).
//! Their command lines, outputs and exit statuses are the originals'.

use crate::config::DEFAULT_CONTROL;
use crate::control::client::ClientError;
use crate::control::{Client, Program, Ran, Reply, Request};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidegate_filter::live::{self, Call, Files, Present};
use tidegate_filter::{Counters, Ruleset, Sets};
use tidegate_packet::Family;

/// Names the control socket where `--control` has no place.
pub(super) const CONTROL: &str = "TIDEGATE_CONTROL";

/// What iptables ends with where there is no table to speak of.
const NO_TABLES: u8 = 3;
/// What it ends with where it is worth trying again.
const BUSY: u8 = 4;
const OTHER: u8 = 1;
/// How long a call waits while too many others are served.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program by its name.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub text: &'static str,
    family: Family,
    program: Program,
}

const fn name(text: &'static str, family: Family, program: Program) -> Name {
    Name { text, family, program }
}

/// All names there are.
pub(super) const NAMES: [Name; 6] = [
    name("iptables", Family::V4, Program::Iptables),
    name("iptables-save", Family::V4, Program::Save),
    name("iptables-restore", Family::V4, Program::Restore),
    name("ip6tables", Family::V6, Program::Iptables),
    name("ip6tables-save", Family::V6, Program::Save),
    name("ip6tables-restore", Family::V6, Program::Restore),
];

/// The name that this program was called by, or that its first argument is, and what follows.
pub(super) fn called(args: &[OsString]) -> Option<(Name, &[OsString])> {
    let find = |text: &str| NAMES.into_iter().find(|name| name.text == text);
    let own = args.first().and_then(|path| Path::new(path).file_name()?.to_str()).and_then(find);
    match own {
        Some(name) => Some((name, &args[1..])),
        None => args.get(1)?.to_str().and_then(find).map(|name| (name, &args[2..])),
    }
}

/// Runs a program.
pub(super) fn main(
    name: Name,
    args: &[OsString],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let Some(args) = args.iter().map(|arg| arg.to_str().map(str::to_owned)).collect() else {
        writeln!(err, "{}: an argument is not UTF-8", name.text)?;
        return Ok(OTHER);
    };
    let args: Vec<String> = args;
    let program = match name.program {
        Program::Iptables => live::Program::Iptables,
        Program::Save => live::Program::Save,
        Program::Restore => live::Program::Restore,
    };
    let Files { input, output } = live::files(program, &args);
    // Whatever needs no gateway has to work without one.
    let about = |arg: &String| matches!(arg.as_str(), "-V" | "--version" | "-h" | "--help");
    let ran = if args.iter().any(about) {
        offline(name, program, &args)
    } else {
        let text = match read(program, input.as_deref()) {
            Ok(text) => text,
            Err(why) => {
                writeln!(err, "{why}")?;
                return Ok(OTHER);
            }
        };
        let Name { family, program, text: own } = name;
        ask(own, NO_TABLES, Request::Call { program, family, args, input: text })
    };
    match output.filter(|_| ran.status == 0) {
        Some(path) => {
            if let Err(error) = std::fs::write(&path, &ran.out) {
                writeln!(err, "Failed to open file {path}: {error}")?;
                return Ok(OTHER);
            }
        }
        None => out.write_all(ran.out.as_bytes())?,
    }
    out.flush()?;
    err.write_all(ran.err.as_bytes())?;
    Ok(ran.status)
}

/// What `restore` is given.
fn read(program: live::Program, file: Option<&str>) -> Result<String, String> {
    if program != live::Program::Restore {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    match file {
        Some(path) => {
            bytes = std::fs::read(path).map_err(|e| format!("Can't open {path}: {e}"))?;
        }
        None => {
            io::stdin().read_to_end(&mut bytes).map_err(|e| format!("standard input: {e}"))?;
        }
    }
    String::from_utf8(bytes).map_err(|e| format!("the rules are not UTF-8: {e}"))
}

/// A call that looks at no rules.
fn offline(name: Name, program: live::Program, args: &[String]) -> Ran {
    let ruleset = Ruleset::empty(name.family, &Sets::new());
    let counters = Counters::default();
    let call = Call { program, family: name.family, args, input: "", stamp: "" };
    let answer = live::run(call, Present { ruleset: &ruleset, counters: &counters });
    Ran { status: answer.status, out: answer.out, err: answer.err }
}

/// Asks the gateway for a run of the program of that name. `absent` is the status if there is none.
pub(super) fn ask(name: &str, absent: u8, request: Request) -> Ran {
    let path = std::env::var_os(CONTROL).map_or_else(|| DEFAULT_CONTROL.into(), PathBuf::from);
    let began = Instant::now();
    loop {
        let asked = Client::connect(&path).and_then(|mut c| c.ask(request.clone()));
        let (status, why) = match asked {
            Ok(Reply::Ran(ran)) => return ran,
            Ok(_) => (OTHER, "the gateway answered something else".to_owned()),
            Err(error @ ClientError::Absent { .. }) => (absent, error.to_string()),
            Err(ClientError::Refused(why)) if why == crate::control::server::TOO_MANY => {
                if began.elapsed() < PATIENCE {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                (BUSY, why)
            }
            Err(error) => (OTHER, error.to_string()),
        };
        return Ran { status, out: String::new(), err: format!("{name}: {why}\n") };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_called_by_name() {
        for (args, want) in [
            (&["/usr/sbin/iptables", "-L"][..], Some(("iptables", 1))),
            (&["ip6tables-restore"], Some(("ip6tables-restore", 0))),
            (&["/bin/tidegate", "iptables-save", "-c"], Some(("iptables-save", 1))),
            (&["/bin/tidegate", "status"], None),
            (&["/bin/tidegate"], None),
            (&["iptables", "iptables-save"], Some(("iptables", 1))),
            (&[], None),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let got = called(&args).map(|(name, rest)| (name.text, rest.len()));
            assert_eq!(got, want, "{args:?}");
        }
    }

    #[test]
    fn the_version_needs_no_gateway() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = main(NAMES[3], &["-V".into()], &mut out, &mut err).unwrap();
        assert_eq!((status, &out[..]), (0, &b"ip6tables v1.8.9 (legacy)\n"[..]));
    }
}
