//! `tidegate check`: is a rules file right, and how does it read when it is saved?

use super::{DONE, FAILED, FamilyArgs};
use crate::diagnostic::{Diagnostic, Source, Style};
use crate::rules;
use clap::Args;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_filter::{SaveStyle, guess_family};

const EXAMPLES: &str = "\
Examples:
  tidegate check iptables.rules ip6tables.rules
  iptables-save | tidegate check -4 -

The family is that of -4 or -6; otherwise it is told by the file's name (ip6tables.rules, rules.v6),
by the comment that ip6tables-save writes, or by the addresses and protocols in the text, and is
IPv4 if none of them says.";

/// Parse and validate rules files, and print them as iptables-save would
///
/// Rules that are right go to standard output. Everything that is wrong is shown with its file,
/// line and column, and the exit status is 1. Nothing is applied.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    family: FamilyArgs,

    /// Print nothing of rules that are right
    #[arg(short, long)]
    quiet: bool,

    /// Rules as iptables-save or ip6tables-save print them; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn main(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let style = Style::of_stderr();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut status = DONE;
    for path in &args.files {
        let source = match read(path) {
            Ok(source) => source,
            Err(error) => {
                err.write_all(error.render(style).as_bytes())?;
                status = FAILED;
                continue;
            }
        };
        let family =
            args.family.family().unwrap_or_else(|| guess_family(&source.name, &source.text));
        match rules::parse(&source, family) {
            Ok((ruleset, warnings)) => {
                for warning in warnings {
                    err.write_all(warning.render(style).as_bytes())?;
                }
                if !args.quiet {
                    let save = SaveStyle { stamp: &ctime(now), rule_counters: false };
                    out.write_all(ruleset.save(None, save).as_bytes())?;
                }
            }
            Err(report) => {
                err.write_all(report.render(style).as_bytes())?;
                status = FAILED;
            }
        }
    }
    Ok(status)
}

fn read(path: &Path) -> Result<Arc<Source>, Box<Diagnostic>> {
    if path != Path::new("-") {
        return Source::read(path);
    }
    let name = "<stdin>".to_owned();
    let mut bytes = Vec::new();
    match io::stdin().read_to_end(&mut bytes) {
        Ok(_) => Source::from_bytes(name, bytes),
        Err(error) => Err(Box::new(Diagnostic::unplaced(format!("{name}: {error}")))),
    }
}

/// Seconds since 1970 as ctime(3) writes them, in UTC: `Sat Apr 20 10:53:41 2019`.
fn ctime(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = seconds / 86400;
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    for len in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < len {
            break;
        }
        left -= len;
        month += 1;
    }
    let day = DAYS[(days % 7) as usize];
    let time = seconds % 86400;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{day} {} {:2} {hour:02}:{minute:02}:{second:02} {year}", MONTHS[month], left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_ctime_writes_them() {
        for (seconds, want) in [
            (0, "Thu Jan  1 00:00:00 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (951_868_799, "Tue Feb 29 23:59:59 2000"),
            (1_555_757_621, "Sat Apr 20 10:53:41 2019"),
            (1_735_689_599, "Tue Dec 31 23:59:59 2024"),
            (4_107_542_400, "Mon Mar  1 00:00:00 2100"),
        ] {
            assert_eq!(ctime(seconds), want);
        }
    }
}
