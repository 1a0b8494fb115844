//! `tidegate install-names`: links by which scripts find the programs that they know.

use super::conntrack;
use super::{DONE, FAILED};
use super::{ipset, names};
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  tidegate install-names /usr/local/sbin
  tidegate install-names ~/gateway/bin && PATH=~/gateway/bin:$PATH fail2ban-client start

The links speak to the gateway whose control socket TIDEGATE_CONTROL names (default:
/run/tidegate/control.sock).";

/// Make links named iptables, ip6tables, their -save and -restore, ipset and conntrack
///
/// Called by such a name, this program is that program for the running gateway, with the same
/// command line, output and exit status. A file of that name that is no link to this program is
/// left alone, and nothing is done.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InstallNamesArgs {
    /// Where to put them; made if it isn't there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn main(
    args: &InstallNamesArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    match install(args, out) {
        Ok(()) => Ok(DONE),
        Err(why) => {
            writeln!(err, "error: {why}")?;
            Ok(FAILED)
        }
    }
}

fn install(args: &InstallNamesArgs, out: &mut dyn Write) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
    let folder = &args.folder;
    let shown = folder.display();
    std::fs::create_dir_all(folder).map_err(|e| format!("{shown}: {e}"))?;
    let mut missing = Vec::new();
    let others = [ipset::NAME, conntrack::NAME];
    for name in names::NAMES.iter().map(|name| name.text).chain(others) {
        let path = folder.join(name);
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(path),
            Err(error) => return Err(format!("{}: {error}", path.display())),
            Ok(_) if std::fs::canonicalize(&path).is_ok_and(|to| to == own) => {}
            Ok(_) => return Err(format!("{} is something else; nothing was done", path.display())),
        }
    }
    for path in missing {
        std::os::unix::fs::symlink(&own, &path).map_err(|e| format!("{}: {e}", path.display()))?;
        writeln!(out, "{}", path.display()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_once_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let args = InstallNamesArgs { folder: folder.path().join("sbin") };
        let mut out = Vec::new();
        install(&args, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 8);
        let link = args.folder.join("ip6tables-save");
        assert_eq!(std::fs::read_link(&link).unwrap(), std::env::current_exe().unwrap());
        let mut out = Vec::new();
        install(&args, &mut out).unwrap();
        assert!(out.is_empty());
        std::fs::remove_file(&link).unwrap();
        std::fs::remove_file(args.folder.join("iptables")).unwrap();
        std::fs::write(&link, "precious").unwrap();
        assert!(install(&args, &mut Vec::new()).unwrap_err().contains("ip6tables-save"));
        assert!(!args.folder.join("iptables").exists());
        assert_eq!(std::fs::read(&link).unwrap(), b"precious");
    }
}
