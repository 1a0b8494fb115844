//! The right to make network namespaces: root has it, anybody else gets it by a user namespace.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::error::{Doing, LabError, Result};

/// Bits of `CapEff`: CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN (capability.h).
const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 21;

/// How the process came by its rights.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// It had them already.
    Held,
    /// It is now root of a user namespace of its own.
    UserNamespace,
}

/// Makes sure that this process may create and configure network namespaces. An ordinary user's
/// process enters a user namespace in which it is root.
///
/// Must be called before the process starts its first thread, because the kernel refuses a new
/// user namespace to a process with several.
pub fn acquire() -> Result<Privilege> {
    let status = fs::read_to_string("/proc/self/status").doing(|| "/proc/self/status")?;
    if effective(&status).is_some_and(|caps| caps & NEEDED == NEEDED) {
        return Ok(Privilege::Held);
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| refused(e, &status))?;
    // user_namespaces(7): an unprivileged process may write gid_map only after it gave up
    // setgroups.
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        let path = format!("/proc/self/{file}");
        fs::write(&path, text).map_err(|e| denied(&format!("cannot write {path}: {e}")))?;
    }
    Ok(Privilege::UserNamespace)
}

/// Translates the answer of `unshare(CLONE_NEWUSER)`.
fn refused(error: Errno, status: &str) -> LabError {
    match error {
        Errno::EINVAL if threads(status).is_some_and(|n| n > 1) => LabError::Invalid(
            "a user namespace must be entered before the first thread is started".into(),
        ),
        Errno::EINVAL => denied("this kernel has no user namespaces"),
        Errno::ENOSPC | Errno::EUSERS => {
            denied("the limit of user namespaces is used up (sysctl user.max_user_namespaces)")
        }
        other => denied(&format!("no user namespace for this user: {other}")),
    }
}

fn denied(what: &str) -> LabError {
    LabError::Missing(format!("{what}\n{}", hint()))
}

/// What a user can do about missing rights.
pub(crate) fn hint() -> &'static str {
    "The lab needs network namespaces. Either run it as root, or allow user namespaces: \
     user.max_user_namespaces must not be 0, kernel.unprivileged_userns_clone (where it exists) \
     must be 1, kernel.apparmor_restrict_unprivileged_userns (Ubuntu) must be 0; a container \
     must be started with --privileged, or with CAP_SYS_ADMIN and CAP_NET_ADMIN"
}

/// The error for a refused network namespace, with advice where rights are the reason.
pub(crate) fn explain(error: io::Error) -> LabError {
    match error.raw_os_error() {
        Some(libc::EPERM) => denied("this process may not make network namespaces"),
        Some(libc::EINVAL) => LabError::Missing("this kernel has no network namespaces".into()),
        Some(libc::ENOSPC) => {
            denied("the limit of network namespaces is used up (sysctl user.max_net_namespaces)")
        }
        _ => LabError::System { what: "new network namespace".into(), source: error },
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn effective(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapEff")?, 16).ok()
}

fn threads(status: &str) -> Option<u32> {
    field(status, "Threads")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ttidegate\nThreads:\t3\nCapPrm:\t0000000000000000\n\
                          CapEff:\t000001ffffffffff\n";

    #[test]
    fn status_fields() {
        assert_eq!(effective(STATUS), Some(0x1ff_ffff_ffff));
        assert_eq!(threads(STATUS), Some(3));
        assert_eq!(field(STATUS, "Cap"), None);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (error, status, want) in [
            (Errno::EINVAL, STATUS, "before the first thread"),
            (Errno::EINVAL, "Threads:\t1\n", "no user namespaces"),
            (Errno::ENOSPC, STATUS, "max_user_namespaces"),
            (Errno::EPERM, STATUS, "run it as root"),
        ] {
            let text = refused(error, status).to_string();
            assert!(text.contains(want), "{error}: {text}");
        }
    }
}
