//! The units of `dist/systemd`: systemd takes them, and the program takes what they call it with.
//!
//! Where systemd-analyze isn't installed that half says so, and fails if `TIDEGATE_FORBID_SKIP` is
//! set. Nothing is started: that needs systemd to be the first process.

use std::fs;
use std::path::Path;
use std::process::Command;

const INSTALLED: &str = "/usr/local/bin/tidegate";
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

fn units() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/systemd");
    let mut units: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), fs::read_to_string(e.path()).unwrap()))
        .collect();
    units.sort();
    units
}

#[test]
fn systemd_takes_them() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if let Err(error) = version {
        assert!(std::env::var_os("TIDEGATE_FORBID_SKIP").is_none(), "systemd-analyze: {error}");
        eprintln!("SKIPPED: systemd_takes_them: systemd-analyze: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in units() {
        assert!(text.contains(INSTALLED), "{name}");
        let path = folder.path().join(&name);
        fs::write(&path, text.replace(INSTALLED, PROGRAM)).unwrap();
        let done = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        // It looks at the units of the machine that these name as well; their faults aren't ours.
        let own: Vec<&str> = said.lines().filter(|line| line.contains("tidegate")).collect();
        assert!(own.is_empty(), "{name}: {said}");
    }
}

#[test]
fn the_program_takes_their_command_lines() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path.trim_start_matches('/')).display().to_string();
    for (name, text) in units() {
        for key in ["ExecStart=", "ExecReload="] {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let words: Vec<&str> =
                line.unwrap_or_else(|| panic!("{name}: {key}")).split(' ').collect();
            assert_eq!(words[0], INSTALLED, "{name}");
            // Files that aren't there, so that it ends before it does anything.
            let args = words[1..].iter().map(|word| match word.starts_with('/') {
                true => at(word),
                false => (*word).to_owned(),
            });
            let done = Command::new(PROGRAM).args(args).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr);
            // A command line that is wrong ends with 2.
            assert_eq!(done.status.code(), Some(1), "{name}: {key}: {said}");
            assert!(said.contains("No such file"), "{name}: {key}: {said}");
        }
    }
}

/// Both are the same but for what the namespace changes.
#[test]
fn the_template_is_as_hardened() {
    let units = units();
    let [(_, plain), (name, template)] = &units[..] else { panic!("{units:?}") };
    assert_eq!(name, "tidegate@.service");
    let settings = |text: &str| -> Vec<String> {
        let differs = ["ExecStart=", "ExecReload=", "NetworkNamespacePath=", "Description="];
        let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        lines.filter(|l| !differs.iter().any(|d| l.starts_with(d))).map(str::to_owned).collect()
    };
    assert_eq!(settings(plain), settings(template));
    assert!(settings(plain).iter().any(|l| l.starts_with("CapabilityBoundingSet=")));
}
