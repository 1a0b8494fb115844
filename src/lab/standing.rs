//! Labs that stand: where they are written down, so that other processes can enter or end them,
//! and so that the remains of one that crashed are found.
//!
//! Every user has a directory for labs (`/run/tidegate-lab`, `$XDG_RUNTIME_DIR/tidegate-lab`, or
//! one in the temporary directory). A lab has a directory in it that is named by its process and
//! holds `state.json` and the gateway's files. A process that crashes takes its namespaces with
//! it, so this directory is all that can remain; whether the process is still the same is told by
//! its start time.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use super::error::{Doing, LabError, Result};
use super::scene::Scene;

const STATE: &str = "state.json";

/// How long a lab may take to come down.
const FALL: Duration = Duration::from_secs(10);

/// A process, and no later one with the same number.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = read_stat(&stat)?;
        // A zombie has no namespaces and no sockets any more.
        (state != "Z" && state != "X").then_some(Self { pid, started })
    }

    fn lives(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) -> nix::Result<()> {
        kill(Pid::from_raw(self.pid.cast_signed()), signal)
    }
}

/// State and start time (fields 3 and 22 of proc_pid_stat(5)). The name before them may hold
/// anything, also blanks and parentheses.
fn read_stat(stat: &str) -> Option<(&str, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?, fields.nth(18)?.parse().ok()?))
}

/// A host of a standing lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The descriptor of its network namespace in the lab's process.
    pub fd: i32,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// What is written down about a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The process that holds its namespaces.
    pub process: Process,
    /// The gateway's process.
    pub gateway: Option<Process>,
    /// The hosts; none while it is being built.
    pub hosts: Vec<Host>,
}

impl State {
    /// This process's lab, before there is anything in it.
    pub fn beginning() -> Result<Self> {
        let process = Process::find(std::process::id())
            .ok_or_else(|| LabError::Missing("/proc is not mounted".into()))?;
        Ok(Self { process, gateway: None, hosts: Vec::new() })
    }

    /// This process's lab.
    pub fn of(scene: &Scene) -> Result<Self> {
        let mut state = Self::beginning()?;
        state.gateway = scene.gateway.pid().and_then(Process::find);
        for name in scene.network.names() {
            let host = scene.network.host(name);
            let addresses = host
                .netlink()
                .and_then(|mut n| n.addresses())
                .doing(|| format!("addresses of {name}"))?
                .into_iter()
                .filter(|a| a.scope == 0)
                .map(|a| a.prefix.addr().to_string())
                .collect();
            state.hosts.push(Host { name: name.to_owned(), fd: host.raw_fd(), addresses });
        }
        Ok(state)
    }

    /// Moves this process (which must have a single thread) into a host of the lab: into its user
    /// namespace, if that is another one, and into the host's network namespace.
    pub fn enter(&self, host: &str) -> Result<()> {
        let Some(host) = self.hosts.iter().find(|h| h.name == host) else {
            let names: Vec<_> = self.hosts.iter().map(|h| h.name.as_str()).collect();
            let text = format!("the lab has no host {host:?}, only {}", names.join(", "));
            return Err(LabError::Invalid(text));
        };
        let pid = self.process.pid;
        let what = || format!("entering {} of lab {pid}", host.name);
        let network = File::open(format!("/proc/{pid}/fd/{}", host.fd)).doing(what)?;
        let theirs = format!("/proc/{pid}/ns/user");
        let (mine, yours) = (fs::read_link("/proc/self/ns/user"), fs::read_link(&theirs));
        if mine.doing(what)? != yours.doing(what)? {
            let user = File::open(theirs).doing(what)?;
            setns(user, CloneFlags::CLONE_NEWUSER).doing(what)?;
        }
        setns(network, CloneFlags::CLONE_NEWNET).doing(what)
    }

    /// Takes the lab down and waits until it is gone.
    pub fn stop(&self) -> Result<()> {
        let pid = self.process.pid;
        self.process.signal(Signal::SIGTERM).doing(|| format!("ending lab {pid}"))?;
        let asked = Instant::now();
        while self.process.lives() {
            if asked.elapsed() > FALL {
                self.process.signal(Signal::SIGKILL).doing(|| format!("killing lab {pid}"))?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// The directory of one user's labs.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
}

impl Home {
    /// Finds it, or makes it. To be called before a user namespace changes who one seems to be.
    pub fn find() -> Result<Self> {
        let uid = geteuid();
        let runtime = if uid.is_root() {
            Some(PathBuf::from("/run"))
        } else {
            std::env::var_os("XDG_RUNTIME_DIR")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(format!("/run/user/{uid}"))))
        };
        let runtime = runtime.filter(|d| d.is_absolute() && d.is_dir());
        let private = runtime.map(|d| d.join("tidegate-lab"));
        let shared = std::env::temp_dir().join(format!("tidegate-lab-{uid}"));
        match private.map(Self::at) {
            Some(Ok(home)) => Ok(home),
            _ => Self::at(shared),
        }
    }

    /// Uses a directory that is ours alone, and makes it if it isn't there.
    pub fn at(path: PathBuf) -> Result<Self> {
        let what = || format!("directory for labs {}", path.display());
        match fs::create_dir(&path) {
            Ok(()) => fs::set_permissions(&path, Permissions::from_mode(0o700)).doing(what)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).doing(what),
        }
        // In a shared directory somebody else may have been faster.
        let found = fs::symlink_metadata(&path).doing(what)?;
        if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
            let text = format!("{} is not a directory of this user alone", path.display());
            return Err(LabError::Invalid(text));
        }
        Ok(Self { path })
    }

    /// A directory for this process's lab.
    pub fn begin(&self) -> Result<Directory> {
        let state = State::beginning()?;
        let path = self.path.join(state.process.pid.to_string());
        fs::create_dir(&path).doing(|| path.display().to_string())?;
        let directory = Directory { path };
        directory.write(&state)?;
        Ok(directory)
    }

    /// The labs that stand, the newest last.
    pub fn standing(&self) -> Result<Vec<State>> {
        let mut states: Vec<_> = self.entries()?.into_iter().filter_map(|(_, s)| s).collect();
        states.retain(|s| s.process.lives() && !s.hosts.is_empty());
        states.sort_by_key(|s| (s.process.started, s.process.pid));
        Ok(states)
    }

    /// The lab that is meant: that of process `pid`, or the newest.
    pub fn pick(&self, pid: Option<u32>) -> Result<State> {
        let mut standing = self.standing()?;
        if let Some(pid) = pid {
            standing.retain(|s| s.process.pid == pid);
        }
        standing.pop().ok_or_else(|| {
            LabError::Invalid(match pid {
                Some(pid) => format!("no lab of process {pid} stands"),
                None => "no lab stands; start one with: tidegate lab --keep".into(),
            })
        })
    }

    /// Removes what labs that crashed left behind and says whose it was.
    pub fn sweep(&self) -> Result<Vec<u32>> {
        let mut swept = Vec::new();
        for (path, state) in self.entries()? {
            let named = path.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok());
            let Some(pid) = named else { continue };
            let lives = match &state {
                Some(state) => state.process.lives(),
                // It is just being made, or its process died in that moment.
                None => Process::find(pid).is_some(),
            };
            if lives {
                continue;
            }
            if let Some(gateway) = state.and_then(|s| s.gateway).filter(|g| g.lives()) {
                let _ = gateway.signal(Signal::SIGKILL);
            }
            fs::remove_dir_all(&path).doing(|| format!("removing {}", path.display()))?;
            swept.push(pid);
        }
        Ok(swept)
    }

    fn entries(&self) -> Result<Vec<(PathBuf, Option<State>)>> {
        let what = || self.path.display().to_string();
        let paths = fs::read_dir(&self.path)
            .doing(what)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<io::Result<Vec<_>>>()
            .doing(what)?;
        Ok(paths
            .into_iter()
            .map(|path| {
                let state = fs::read(path.join(STATE)).ok();
                let state = state.and_then(|text| serde_json::from_slice(&text).ok());
                (path, state)
            })
            .collect())
    }
}

/// The directory of this process's lab. It goes when this is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the lab's state down; a reader sees the old or the new.
    pub fn write(&self, state: &State) -> Result<()> {
        let what = || format!("{}/{STATE}", self.path.display());
        let text = serde_json::to_vec_pretty(state).doing(what)?;
        let new = self.path.join("state.new");
        fs::write(&new, text).doing(what)?;
        fs::rename(new, self.path.join(STATE)).doing(what)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let directory = tempfile::tempdir().expect("a directory");
        let home = Home::at(directory.path().join("labs")).expect("a directory of our own");
        (directory, home)
    }

    #[test]
    fn stat_lines() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(read_stat(&format!("7 (tidegate) {rest}")), Some(("S", 4711)));
        assert_eq!(read_stat(&format!("7 (a) b (c) {rest}")), Some(("S", 4711)));
        assert_eq!(read_stat("7 (tidegate) S 1 2"), None);
    }

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = Process::find(std::process::id()).expect("this process");
        assert!(me.lives());
        assert!(!Process { started: me.started + 1, ..me }.lives());
    }

    #[test]
    fn a_lab_is_found_while_it_stands() {
        let (_directory, home) = home();
        let lab = home.begin().expect("a lab");
        assert_eq!(home.standing().expect("a list"), [], "nothing is in it yet");
        let mut state = State::beginning().expect("a state");
        state.hosts.push(Host { name: "client".into(), fd: 3, addresses: vec![] });
        lab.write(&state).expect("written");
        assert_eq!(home.pick(None).expect("the lab"), state);
        assert_eq!(home.pick(Some(state.process.pid)).expect("the lab"), state);
        assert!(home.pick(Some(state.process.pid + 1)).is_err());
        assert!(home.sweep().expect("swept").is_empty(), "it stands");
        drop(lab);
        let error = home.pick(None).expect_err("it fell").to_string();
        assert!(error.contains("tidegate lab --keep"), "{error}");
    }

    #[test]
    fn remains_are_swept() {
        let (_directory, home) = home();
        let lab = home.begin().expect("a lab");
        let mut state = State::beginning().expect("a state");
        // As if another process had had this number before.
        state.process.started -= 1;
        lab.write(&state).expect("written");
        fs::create_dir(home.path.join("notes")).expect("something else");
        fs::create_dir(home.path.join("4194305")).expect("a lab without a state");
        let mut swept = home.sweep().expect("swept");
        swept.sort_unstable();
        assert_eq!(swept, [state.process.pid, 4_194_305]);
        assert!(!lab.path().exists());
        assert!(home.path.join("notes").exists());
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() {
        let (directory, _) = home();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("changed");
        let error = Home::at(directory.path().to_owned()).expect_err("not ours alone");
        assert!(error.to_string().contains("of this user alone"), "{error}");
    }

    #[test]
    fn a_host_that_is_not_there() {
        let mut state = State::beginning().expect("a state");
        for name in ["client", "web"] {
            state.hosts.push(Host { name: name.into(), fd: 3, addresses: vec![] });
        }
        let error = state.enter("mars").expect_err("no such host").to_string();
        assert_eq!(error, "the lab has no host \"mars\", only client, web");
    }
}
