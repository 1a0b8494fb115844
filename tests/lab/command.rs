//! `tidegate lab` as a command: what it leaves, and what can be done with a lab that stands.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Outcome, PATIENCE};

fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("lab").args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn told(output: &Output) -> String {
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

pub fn a_kept_lab_is_entered_and_stopped() -> Outcome {
    let kept = lab(&["--reference", "--keep"]).output()?;
    assert_eq!(kept.status.code(), Some(0), "{}", told(&kept));
    let said = text(&kept.stderr);
    let pid = said.split_once("(process ").and_then(|(_, rest)| rest.split_once(')'));
    let pid = pid.ok_or_else(|| told(&kept))?.0.to_owned();

    let list = lab(&["list"]).output()?;
    let listed = text(&list.stdout);
    assert!(listed.contains(&format!("lab {pid}\n")), "{listed}");
    assert!(listed.contains("198.51.100.10, 2001:db8:2::10"), "{listed}");

    let script = "cat /proc/thread-self/net/fib_trie; echo at $TIDEGATE_LAB_HOST; exit 7";
    let inside = lab(&["exec", "--lab", &pid, "client", "--", "sh", "-c", script]).output()?;
    let seen = text(&inside.stdout);
    assert_eq!(inside.status.code(), Some(7), "{}", told(&inside));
    assert!(seen.contains("192.168.0.2") && !seen.contains("198.51.100.10"), "{seen}");
    assert!(seen.ends_with("at client\n"), "{seen}");

    for (arguments, status, error) in [
        (&["mars", "true"][..], 125, "no host \"mars\""),
        (&["client", "tidegate-no-such-program"], 127, "No such file"),
        (&["client", "/"], 126, "Permission denied"),
    ] {
        let failed = lab(&["exec", "--lab", &pid]).args(arguments).output()?;
        assert_eq!(failed.status.code(), Some(status), "{}", told(&failed));
        assert!(text(&failed.stderr).contains(error), "{}", told(&failed));
    }

    let stopped = lab(&["stop", "--lab", &pid]).output()?;
    assert!(stopped.status.success(), "{}", told(&stopped));
    let list = lab(&["list"]).output()?;
    assert!(!text(&list.stdout).contains(&format!("lab {pid}\n")), "{}", told(&list));
    let again = lab(&["stop", "--lab", &pid]).output()?;
    assert_eq!(again.status.code(), Some(1), "{}", told(&again));
    Ok(())
}

/// Starts a lab and waits until it is built.
fn begun(arguments: &[&str]) -> Result<(std::process::Child, PathBuf), Box<dyn std::error::Error>> {
    let child = lab(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = child.id().to_string();
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let listed = lab(&["list"]).output()?;
        if text(&listed.stdout).contains(&format!("lab {pid}\n")) {
            let homes = [
                "/run/tidegate-lab".into(),
                format!("/tmp/tidegate-lab-{}", nix::unistd::geteuid()),
            ];
            let directory = homes.iter().map(|h| Path::new(h).join(&pid)).find(|d| d.exists());
            return Ok((child, directory.ok_or("the lab has no directory")?));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("the lab isn't built".into())
}

pub fn remains_are_cleaned_up() -> Outcome {
    // In order.
    let (mut child, directory) = begun(&["--reference"])?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    assert_eq!(child.wait()?.code(), Some(130));
    assert!(!directory.exists());

    // After a crash, by the next.
    let (mut child, directory) = begun(&["--reference"])?;
    child.kill()?;
    child.wait()?;
    assert!(directory.exists(), "nobody could have removed it");
    let (mut next, own) = begun(&["--reference"])?;
    assert!(!directory.exists(), "{}", directory.display());
    kill(Pid::from_raw(next.id().cast_signed()), Signal::SIGTERM)?;
    next.wait()?;
    assert!(!own.exists());
    Ok(())
}

pub fn the_gateway_ends_with_a_lab_that_crashes() -> Outcome {
    let (mut child, directory) = begun(&[])?;
    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(directory.join("state.json"))?)?;
    let gateway = state["gateway"]["pid"].as_u64().ok_or("the gateway has a process")?;
    assert!(runs(gateway));
    child.kill()?;
    child.wait()?;
    let killed = Instant::now();
    while runs(gateway) {
        assert!(killed.elapsed() < PATIENCE, "process {gateway} is still there");
        thread::sleep(Duration::from_millis(10));
    }
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

/// Whether a process does anything any more; one that nobody waits for doesn't.
fn runs(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("State:\tZ"))
}
