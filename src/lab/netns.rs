//! A network namespace as an object.
//!
//! It is made by a thread that leaves its own namespace and it lives as long as the descriptor
//! that the object holds (and the sockets and processes inside). Nothing is left in the file
//! system, so a process that crashes takes its namespaces with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};

use super::error::{Doing, LabError, Result};
use super::privilege;
use crate::link::netlink::Netlink;

/// A network namespace. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// A new namespace in which nothing exists but `lo`, which is up.
    pub fn new() -> Result<Self> {
        let file = thread::scope(|s| {
            s.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            })
            .join()
        })
        .unwrap_or_else(|panic| panic::resume_unwind(panic))
        .map_err(privilege::explain)?;
        let new = Self { file: Arc::new(file) };
        new.netlink()
            .and_then(|mut n| {
                let lo = n.require_link("lo")?.index;
                n.set_up(lo, true)
            })
            .doing(|| "lo up in a new namespace")?;
        Ok(new)
    }

    /// Runs `work` in a thread inside this namespace and waits for it. Sockets made there stay in
    /// the namespace wherever they go, and so do the threads and processes that it starts.
    ///
    /// # Panics
    /// If `work` does, or if the kernel doesn't let the thread in, which can't happen to the
    /// process that made the namespace and still has its rights.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|s| {
            s.spawn(|| {
                self.enter();
                work()
            })
            .join()
        })
        .unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Starts a thread inside this namespace.
    pub fn spawn<T, F>(&self, name: &str, work: F) -> io::Result<JoinHandle<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let inside = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            inside.enter();
            work()
        })
    }

    /// A socket to this namespace's links, addresses and routes.
    pub fn netlink(&self) -> io::Result<Netlink> {
        Netlink::open_in(self.as_fd())
    }

    /// Sets a sysctl of this namespace, named with dots or slashes: `net.ipv4.ip_forward`.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name);
        // /proc/sys/net shows the namespace of the thread that looks.
        self.run(|| fs::write(&path, value)).map_err(|e| match e.kind() {
            io::ErrorKind::ReadOnlyFilesystem => LabError::Missing(format!(
                "{path} is read-only: a container needs --privileged to set sysctls of its own \
                 network namespaces"
            )),
            _ => LabError::System { what: format!("writing {value} to {path}"), source: e },
        })
    }

    /// The number of the descriptor that keeps the namespace: `/proc/PID/fd/N` leads to it.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn enter(&self) {
        if let Err(e) = setns(&*self.file, CloneFlags::CLONE_NEWNET) {
            panic!("cannot enter a network namespace of this process: {e}");
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// As sysctl(8) reads names: dots separate unless the name has slashes, in which case a dot is a
/// part of a name (an interface `eth0.5`).
fn sysctl_path(name: &str) -> String {
    if name.contains('/') {
        format!("/proc/sys/{name}")
    } else {
        format!("/proc/sys/{}", name.replace('.', "/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.5/rp_filter"),
            "/proc/sys/net/ipv4/conf/eth0.5/rp_filter"
        );
    }
}
