//! `ipset`: the sets of the running gateway, with the command line, outputs and exit statuses of the
//! program that users and scripts know.

use super::names;
use crate::control::{Ran, Request};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use tidegate_filter::Sets;
use tidegate_filter::sets::{self, Files};
use tidegate_packet::Instant;

/// What the program is called.
pub(super) const NAME: &str = "ipset";

const FAILED: u8 = 1;
/// What ipset ends with if there is no such file.
const NO_FILE: u8 = 255;

/// The arguments, if this program was called by that name or its first argument is it.
pub(super) fn called(args: &[OsString]) -> Option<&[OsString]> {
    let own = args.first().and_then(|path| Path::new(path).file_name());
    match own.is_some_and(|own| own == NAME) {
        true => Some(&args[1..]),
        false => args.get(1).filter(|arg| *arg == NAME).map(|_| &args[2..]),
    }
}

pub(super) fn main(args: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let Some(args) = args.iter().map(|arg| arg.to_str().map(str::to_owned)).collect() else {
        writeln!(err, "{NAME}: an argument is not UTF-8")?;
        return Ok(FAILED);
    };
    let args: Vec<String> = args;
    let Files { restores, offline, file } = sets::files(&args);
    let ran = if offline {
        // What needs no gateway has to work without one.
        let answer = Sets::new().call(&args, "", Instant::ZERO);
        Ran { status: answer.status, out: answer.out, err: answer.err }
    } else {
        let input = match restores.then(|| read(file.as_deref())) {
            None => String::new(),
            Some(Ok(input)) => input,
            Some(Err(why)) => {
                writeln!(err, "{NAME}: {why}")?;
                return Ok(NO_FILE);
            }
        };
        names::ask(NAME, FAILED, Request::Ipset { args, input })
    };
    match file.filter(|_| ran.status == 0 && !restores) {
        Some(path) => {
            if let Err(error) = std::fs::write(&path, &ran.out) {
                writeln!(err, "{NAME}: cannot open {path}: {error}")?;
                return Ok(NO_FILE);
            }
        }
        None => out.write_all(ran.out.as_bytes())?,
    }
    out.flush()?;
    err.write_all(ran.err.as_bytes())?;
    Ok(ran.status)
}

/// What `restore` is given.
fn read(file: Option<&str>) -> Result<String, String> {
    let mut bytes = Vec::new();
    match file {
        Some(path) => {
            bytes = std::fs::read(path).map_err(|e| format!("cannot open {path}: {e}"))?;
        }
        None => {
            io::stdin().read_to_end(&mut bytes).map_err(|e| format!("standard input: {e}"))?;
        }
    }
    String::from_utf8(bytes).map_err(|e| format!("the commands are not UTF-8: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_called_by_name() {
        for (args, want) in [
            (&["/usr/sbin/ipset", "list"][..], Some(1)),
            (&["/bin/tidegate", "ipset", "-n", "list"], Some(2)),
            (&["/bin/tidegate", "status"], None),
            (&["ipset", "ipset"], Some(1)),
            (&[], None),
        ] {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(called(&args).map(<[_]>::len), want, "{args:?}");
        }
    }

    #[test]
    fn the_version_needs_no_gateway() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = main(&["-v".into()], &mut out, &mut err).unwrap();
        assert_eq!((status, &out[..]), (0, &b"ipset v7.17, protocol version: 7\n"[..]));
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let args = ["restore", "-f", "/nowhere/ipset.save"].map(OsString::from);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(main(&args, &mut out, &mut err).unwrap(), NO_FILE);
        let err = String::from_utf8(err).unwrap();
        assert!(err.starts_with("ipset: cannot open /nowhere/ipset.save: "), "{err}");
    }
}
