//! The directory for records of what was taken from the kernel: the same at every start, so that
//! what a crash left behind is found, and that no interface is taken twice.

use nix::unistd::{AccessFlags, access, geteuid};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The machine's.
const SHARED: &str = "/run/tidegate";

/// Root's is `/run/tidegate`. A user without the right to it, also one who is root of a user
/// namespace, has `$XDG_RUNTIME_DIR/tidegate` or `/tmp/tidegate-UID`.
pub fn records() -> io::Result<PathBuf> {
    let shared = PathBuf::from(SHARED);
    if fs::create_dir_all(&shared).and_then(|()| writable(&shared)).is_ok() {
        return Ok(shared);
    }
    let uid = fs::read_to_string("/proc/self/uid_map").ok().and_then(|map| outer_uid(&map));
    let uid = uid.unwrap_or_else(|| geteuid().as_raw());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|d| d.is_absolute() && writable(d).is_ok());
    match runtime {
        Some(runtime) => own(&runtime.join("tidegate")),
        None => own(&std::env::temp_dir().join(format!("tidegate-{uid}"))),
    }
}

fn writable(directory: &Path) -> io::Result<()> {
    Ok(access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// A directory that nobody else can write to.
fn own(path: &Path) -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(named(path, &error.to_string()));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(named(path, "not a directory of this user alone"));
    }
    Ok(path.to_owned())
}

fn named(path: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{}: {what}", path.display()))
}

/// Who the first user of this user namespace is outside of it (user_namespaces(7)).
fn outer_uid(map: &str) -> Option<u32> {
    map.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_outside_is_found() {
        assert_eq!(outer_uid("         0       1000          1\n"), Some(1000));
        assert_eq!(outer_uid(""), None);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("r");
        assert_eq!(own(&path).unwrap(), path);
        assert_eq!(own(&path).unwrap(), path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(own(&path).unwrap_err().to_string().contains("alone"));
        std::os::unix::fs::symlink("/", base.path().join("link")).unwrap();
        assert!(own(&base.path().join("link")).is_err());
    }
}
