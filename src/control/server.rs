//! The gateway's side. A socket is first *reserved* (bound under a temporary name, so that what
//! is wrong with the path shows at the start) and *opened* once packets are being forwarded: only
//! then does the file appear, complete and with its mode. Dropping the [`Server`] removes it.

use super::protocol::{
    LINE_MAX, Lines, PATIENCE, Program, Ran, Reply, Request, Response, Restore, Status,
};
use crate::conntrack::gateway::Peer;
use crate::conntrack::{Ask, Tell};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::socket::{getsockopt, sockopt};
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tidegate_packet::Family;

/// Most clients at a time.
const CLIENTS_MAX: usize = 16;
/// What a client is told when there are.
pub(crate) const TOO_MANY: &str = "too many clients";
/// How long a client may keep its connection without asking anything.
const IDLE: Duration = Duration::from_secs(60);

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);

/// What the gateway does with requests. Called from the server's threads, several at a time.
pub trait Handler: Send + Sync + 'static {
    /// How the gateway is.
    fn status(&self) -> Status;

    /// Reads the rules files again and gives the warnings, or why the old rules stay.
    fn reload(&self) -> Result<Vec<String>, String>;

    /// The rules of a family with counters, as `iptables-save -c` prints them.
    fn rules(&self, family: Family) -> String;

    /// A run of one of iptables' programs. Runs that change rules come one after the other.
    fn call(&self, program: Program, family: Family, args: &[String], input: &str) -> Ran;

    /// Everything that is kept from one run to the next, as text.
    fn save(&self) -> String;

    /// Puts saved rules in force and gives the warnings, or says why nothing was done.
    fn restore(&self, inputs: &[Restore], noflush: bool, counters: bool) -> Result<String, String>;

    /// Something about connections, for a client that may be listening to them.
    fn conntrack(&self, ask: Ask, peer: &mut Peer) -> Tell;

    /// A run of `ipset`.
    fn ipset(&self, args: &[String], input: &str) -> Ran;

    /// The names of the `recent` lists, or the list of that name, or what is written to it.
    fn recent(&self, name: Option<&str>, write: Option<&str>) -> Result<String, String>;
}

/// A socket that nobody can see yet.
#[derive(Debug)]
pub struct Reserved {
    listener: UnixListener,
    hidden: PathBuf,
    path: PathBuf,
}

/// A socket that is being served.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Device and inode of the file, to remove no other.
    file: (u64, u64),
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Reserved {
    /// Takes `path` for this gateway. Its folder is made if it isn't there. A socket that another
    /// gateway answers at, or a file of another kind, is an error; one that nobody answers at is
    /// left over from a crash and will be replaced.
    pub fn new(path: &Path) -> io::Result<Self> {
        refuse_live(path)?;
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| match error.kind() {
                // That which exists isn't a folder.
                io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
                _ => error,
            })?;
        }
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let hidden = PathBuf::from(hidden);
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&hidden)?;
        let reserved = Self { listener, hidden, path: path.to_owned() };
        fs::set_permissions(&reserved.hidden, fs::Permissions::from_mode(0o600))?;
        reserved.listener.set_nonblocking(true)?;
        Ok(reserved)
    }

    /// Makes the socket appear and serves it: to root and to the user of this process.
    pub fn open(self, handler: Arc<dyn Handler>) -> io::Result<Server> {
        let own = nix::unistd::geteuid().as_raw();
        self.open_to(vec![0, own], handler)
    }

    fn open_to(self, users: Vec<u32>, handler: Arc<dyn Handler>) -> io::Result<Server> {
        refuse_live(&self.path)?;
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let listener = self.listener.try_clone()?;
        let mut source = SourceFd(&listener.as_raw_fd());
        poll.registry().register(&mut source, LISTENER, Interest::READABLE)?;
        let metadata = fs::metadata(&self.hidden)?;
        fs::rename(&self.hidden, &self.path)?;
        let service = Service { users, handler, clients: AtomicUsize::new(0) };
        let thread = thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(poll, &listener, &Arc::new(service)));
        let file = (metadata.dev(), metadata.ino());
        match thread {
            Ok(thread) => Ok(Server { path: self.path.clone(), file, waker, thread: Some(thread) }),
            Err(error) => {
                remove_own(&self.path, file);
                Err(error)
            }
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Gone already when the socket was opened.
        let _ = fs::remove_file(&self.hidden);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        remove_own(&self.path, self.file);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn remove_own(path: &Path, file: (u64, u64)) {
    if fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == file) {
        let _ = fs::remove_file(path);
    }
}

fn refuse_live(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let text = "there is a file of another kind";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another gateway answers there")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Err(_) => Ok(()),
    }
}

/// What the threads of the connections share.
struct Service {
    users: Vec<u32>,
    handler: Arc<dyn Handler>,
    clients: AtomicUsize,
}

fn accept(mut poll: Poll, listener: &UnixListener, service: &Arc<Service>) {
    let mut events = Events::with_capacity(4);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                tracing::error!(%error, "the control socket isn't served any more");
                return;
            }
            _ => {}
        }
        if events.iter().any(|e| e.token() == STOP) {
            return;
        }
        loop {
            match listener.accept() {
                Ok((stream, _)) => start(stream, service),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(%error, "a control connection couldn't be taken");
                    // Out of descriptors, usually: don't spin until there are some again.
                    thread::sleep(Duration::from_millis(100));
                    break;
                }
            }
        }
    }
}

fn start(stream: UnixStream, service: &Arc<Service>) {
    let peer = getsockopt(&stream, sockopt::PeerCredentials);
    if !peer.is_ok_and(|p| service.users.contains(&p.uid())) {
        refuse(&stream, "this user may not control the gateway");
        return;
    }
    if service.clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
        service.clients.fetch_sub(1, Ordering::Relaxed);
        refuse(&stream, TOO_MANY);
        return;
    }
    let shared = service.clone();
    let spawned = thread::Builder::new().name("control client".into()).spawn(move || {
        if let Err(error) = converse(&stream, shared.handler.as_ref()) {
            tracing::debug!(%error, "a control connection ended");
        }
        shared.clients.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(error) = spawned {
        service.clients.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!(%error, "a control connection couldn't be served");
    }
}

/// Says why and hangs up. The line is short enough for the socket's empty buffer.
fn refuse(stream: &UnixStream, why: &str) {
    let _ = stream.set_nonblocking(true);
    let _ = send(stream, &Response::Error(why.to_owned()));
}

fn converse(stream: &UnixStream, handler: &dyn Handler) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = Lines::new(LINE_MAX);
    let pid = getsockopt(stream, sockopt::PeerCredentials).ok().map(|peer| peer.pid());
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    let mut peer = Peer { pid, listening: None };
    loop {
        let waiting = Instant::now();
        let mut begun = None;
        let ready = |started: bool| {
            let (since, limit) = match started {
                false => (waiting, IDLE),
                true => (*begun.get_or_insert_with(Instant::now), PATIENCE),
            };
            let left = limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_read_timeout(Some(left))
        };
        let line = match lines.next(&mut &*stream, ready) {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::InvalidData => error.to_string(),
                    _ => "no request came in time".to_owned(),
                };
                send(stream, &Response::Error(why))?;
                return Err(error);
            }
        };
        send(stream, &answer(&line, handler, &mut peer))?;
    }
}

fn answer(line: &[u8], handler: &dyn Handler, peer: &mut Peer) -> Response {
    let request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return Response::Error(format!("this is no request: {error}")),
    };
    match request {
        Request::Status {} => Response::Ok(Reply::Status(handler.status())),
        Request::Reload {} => match handler.reload() {
            Ok(warnings) => Response::Ok(Reply::Reloaded(warnings)),
            Err(why) => Response::Error(why),
        },
        Request::Rules { family } => Response::Ok(Reply::Rules(handler.rules(family))),
        Request::Call { program, family, args, input } => {
            Response::Ok(Reply::Ran(handler.call(program, family, &args, &input)))
        }
        Request::Save {} => Response::Ok(Reply::Saved(handler.save())),
        Request::Restore { inputs, noflush, counters } => {
            match handler.restore(&inputs, noflush, counters) {
                Ok(warnings) => Response::Ok(Reply::Restored(warnings)),
                Err(why) => Response::Error(why),
            }
        }
        Request::Conntrack { ask } => Response::Ok(Reply::Conntrack(handler.conntrack(ask, peer))),
        Request::Ipset { args, input } => Response::Ok(Reply::Ran(handler.ipset(&args, &input))),
        Request::Recent { name, write } => {
            match handler.recent(name.as_deref(), write.as_deref()) {
                Ok(text) => Response::Ok(Reply::Recent(text)),
                Err(why) => Response::Error(why),
            }
        }
    }
}

fn send(mut stream: &UnixStream, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::super::client::{Client, ClientError};
    use super::*;
    use std::io::Read;

    struct Fake;

    impl Handler for Fake {
        fn status(&self) -> Status {
            Status { workers: 3, ..Status::default() }
        }
        fn reload(&self) -> Result<Vec<String>, String> {
            Err("line 3\nis bad".into())
        }
        fn rules(&self, family: Family) -> String {
            format!("{family:?}\n").repeat(100_000)
        }
        fn call(&self, program: Program, family: Family, args: &[String], input: &str) -> Ran {
            let out = format!("{program:?} {family:?} {args:?} {input}");
            Ran { status: 2, out, err: "no".into() }
        }
        fn save(&self) -> String {
            "saved".to_owned()
        }
        fn restore(&self, inputs: &[Restore], _: bool, _: bool) -> Result<String, String> {
            Ok(format!("{}\n", inputs.len()))
        }
        fn conntrack(&self, _ask: Ask, peer: &mut Peer) -> Tell {
            Tell::Count(peer.pid.map_or(0, u64::from))
        }
        fn ipset(&self, _: &[String], _: &str) -> Ran {
            Ran::default()
        }

        fn recent(&self, name: Option<&str>, write: Option<&str>) -> Result<String, String> {
            write.map_or(Ok(format!("{name:?}\n")), |write| Err(write.to_owned()))
        }
    }

    fn serve(path: &Path) -> Server {
        Reserved::new(path).unwrap().open(Arc::new(Fake)).unwrap()
    }

    fn say(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn requests_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/c.sock");
        let _server = serve(&path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = Client::connect(&path).unwrap();
        for _ in 0..2 {
            let reply = client.ask(Request::Status {}).unwrap();
            assert!(matches!(reply, Reply::Status(s) if s.workers == 3));
        }
        let Reply::Rules(text) = client.ask(Request::Rules { family: Family::V6 }).unwrap() else {
            panic!("no rules");
        };
        assert_eq!(text.len(), 300_000);
        let error = client.ask(Request::Reload {}).unwrap_err();
        assert!(matches!(error, ClientError::Refused(why) if why == "line 3\nis bad"));
    }

    #[test]
    fn the_file_is_there_only_while_the_server_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let entries = || fs::read_dir(folder.path()).unwrap().count();
        let reserved = Reserved::new(&path).unwrap();
        assert!(!path.exists());
        let server = reserved.open(Arc::new(Fake)).unwrap();
        assert!(path.exists() && entries() == 1);
        drop(server);
        assert_eq!(entries(), 0);
        drop(Reserved::new(&path).unwrap());
        assert_eq!(entries(), 0);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        drop(UnixListener::bind(&path).unwrap());
        let server = serve(&path);
        let error = Reserved::new(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(say(&path, b"{\"request\":\"status\"}\n").starts_with("{\"ok\""));
        drop(server);
        fs::write(&path, "precious").unwrap();
        let error = Reserved::new(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_successors_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let first = serve(&path);
        fs::remove_file(&path).unwrap();
        let _second = serve(&path);
        drop(first);
        assert!(say(&path, b"{\"request\":\"status\"}\n").starts_with("{\"ok\""));
    }

    #[test]
    fn garbage_is_answered_and_the_connection_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let _server = serve(&path);
        let answers =
            say(&path, b"\xff\xfe\n{\"request\":\"halt\"}\n\n{\"request\":\"status\"}\n{");
        let answers: Vec<&str> = answers.lines().collect();
        assert_eq!(answers.len(), 4);
        assert!(answers[..3].iter().all(|a| a.starts_with("{\"error\":\"this is no request")));
        assert!(answers[3].starts_with("{\"ok\":{\"status\""));
    }

    #[test]
    fn an_oversized_request_ends_the_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let _server = serve(&path);
        let mut stream = UnixStream::connect(&path).unwrap();
        let _ = stream.write_all(&vec![b' '; LINE_MAX]);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "{\"error\":\"the line is too long\"}\n");
    }

    #[test]
    fn another_users_process_is_turned_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let other = nix::unistd::geteuid().as_raw() + 1;
        let _server = Reserved::new(&path).unwrap().open_to(vec![other], Arc::new(Fake)).unwrap();
        let answer = say(&path, b"{\"request\":\"status\"}\n");
        assert_eq!(answer, "{\"error\":\"this user may not control the gateway\"}\n");
    }

    #[test]
    fn clients_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.sock");
        let _server = serve(&path);
        let mut clients: Vec<Client> =
            (0..CLIENTS_MAX).map(|_| Client::connect(&path).unwrap()).collect();
        for client in &mut clients {
            client.ask(Request::Status {}).unwrap();
        }
        let error = Client::connect(&path).unwrap().ask(Request::Status {}).unwrap_err();
        assert!(matches!(error, ClientError::Refused(why) if why == "too many clients"));
    }
}
