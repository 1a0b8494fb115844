//! Taking an interface over from the kernel, and giving it back.
//!
//! An interface that arrives with addresses and routes (a container's `eth0`) can't keep them
//! while the gateway owns it: the kernel would answer in the gateway's place. To *adopt* it is to
//! write down what it has, take that away and bring the link up; to *give it back* is the reverse,
//! on [`Drop`] at the latest. The record is written before anything is taken away and locked while
//! the interface is ours. So a record without a lock is what a crash left behind: the next
//! [`adopt`] puts everything back first and then begins anew, which merges what was added since.

use super::netlink::{InterfaceAddress, Link, Netlink, Route, read_address, read_route};
use super::record::{Record, Saved, age, is_worth_keeping, needs_next_hop};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::RouteMessage;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why an interface can't be adopted or given back.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// There is no such interface.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// Another process has it.
    #[error("interface {0} is adopted by another process")]
    Taken(String),
    /// The record can't be kept, and without one nothing is taken away.
    #[error("can't keep a record in {}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("interface {name}: can't {step}: {source}")]
    Kernel {
        /// The interface.
        name: String,
        /// What was to be done.
        step: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An interface that is ours until this is dropped.
#[derive(Debug)]
pub struct Adopted {
    netlink: Netlink,
    link: Link,
    addresses: Vec<InterfaceAddress>,
    routes: Vec<Route>,
    record: Record,
    file: RecordFile,
    /// Opened while we were in the interface's namespace, which its path depends on.
    disable_ipv6: Option<File>,
    given_back: bool,
}

/// Adopts an interface of the calling thread's namespace; the record is kept in `directory`.
pub fn adopt(name: &str, directory: &Path) -> Result<Adopted, AdoptError> {
    let mut file = RecordFile::open(name, directory)?;
    let mut netlink = Netlink::open().map_err(kernel_error(name, "open netlink"))?;
    recover_from(&mut file, &mut netlink, name)?;
    let link = require(&mut netlink, name)?;
    let mut addresses = netlink.address_messages().map_err(kernel_error(name, "list addresses"))?;
    addresses.retain(|message| message.header.index == link.index);
    let mut routes = netlink.route_messages().map_err(kernel_error(name, "list routes"))?;
    routes.retain(|message| is_worth_keeping(message, link.index));
    let disable_ipv6 = open_disable_ipv6(name);
    let record = Record {
        name: name.to_owned(),
        index: link.index,
        mac: link.mac.map(|mac| mac.to_string()),
        boot: boot(),
        taken: now(),
        was_up: link.up,
        disable_ipv6: disable_ipv6.as_ref().and_then(|f| read_from_start(f).ok()),
        addresses: addresses.iter().map(Saved::address).collect(),
        routes: routes.iter().map(Saved::route).collect(),
    };
    file.write(&record)?;
    let mut adopted = Adopted {
        netlink,
        link,
        addresses: addresses.iter().filter_map(read_address).collect(),
        routes: routes.iter().filter_map(read_route).collect(),
        record,
        file,
        disable_ipv6,
        given_back: false,
    };
    // If a step fails, dropping gives back what was taken.
    adopted.take(&addresses, &routes)?;
    Ok(adopted)
}

/// Puts back what a crashed run had taken from an interface of the calling thread's namespace.
/// True if there was something.
pub fn recover(name: &str, directory: &Path) -> Result<bool, AdoptError> {
    let mut file = RecordFile::open(name, directory)?;
    let mut netlink = Netlink::open().map_err(kernel_error(name, "open netlink"))?;
    let found = recover_from(&mut file, &mut netlink, name)?;
    file.settle();
    Ok(found)
}

impl Adopted {
    /// The link as it was found.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The addresses that it had.
    pub fn addresses(&self) -> &[InterfaceAddress] {
        &self.addresses
    }

    /// The routes of the main table that led out of it, apart from those that come with the
    /// addresses.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Gives the interface back. If something can't be restored, the rest is, and the record stays
    /// for the next start.
    pub fn give_back(mut self) -> Result<(), AdoptError> {
        self.restore()
    }

    fn take(
        &mut self,
        addresses: &[AddressMessage],
        routes: &[RouteMessage],
    ) -> Result<(), AdoptError> {
        let name = self.record.name.clone();
        for message in routes {
            let request = RouteNetlinkMessage::DelRoute(message.clone());
            let deleted = self.netlink.request(request, 0);
            // It may have gone with another one.
            tolerate(deleted, &[libc::ESRCH]).map_err(kernel_error(&name, "remove a route"))?;
        }
        if let Some(file) = &self.disable_ipv6 {
            file.write_all_at(b"1\n", 0).map_err(kernel_error(&name, "disable IPv6"))?;
        }
        for message in addresses {
            let request = RouteNetlinkMessage::DelAddress(message.clone());
            let deleted = self.netlink.request(request, 0);
            // Secondary addresses go with their primary one, IPv6 ones with `disable_ipv6`.
            tolerate(deleted, &[libc::EADDRNOTAVAIL])
                .map_err(kernel_error(&name, "remove an address"))?;
        }
        self.netlink.set_up(self.link.index, true).map_err(kernel_error(&name, "bring it up"))
    }

    fn restore(&mut self) -> Result<(), AdoptError> {
        self.given_back = true;
        put_back(&mut self.netlink, &self.record, self.disable_ipv6.as_ref())?;
        self.file.settle();
        Ok(())
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        if !self.given_back
            && let Err(error) = self.restore()
        {
            tracing::error!(%error, "an interface can't be given back");
        }
    }
}

fn recover_from(
    file: &mut RecordFile,
    netlink: &mut Netlink,
    name: &str,
) -> Result<bool, AdoptError> {
    let Some(record) = file.read()? else { return Ok(false) };
    let link = require(netlink, name)?;
    let same = record.index == link.index
        && record.mac == link.mac.map(|mac| mac.to_string())
        && record.boot == boot();
    if same {
        put_back(netlink, &record, open_disable_ipv6(name).as_ref())?;
    }
    Ok(same)
}

/// Restores what a record says. Goes on after a failure and reports the first.
fn put_back(
    netlink: &mut Netlink,
    record: &Record,
    disable_ipv6: Option<&File>,
) -> Result<(), AdoptError> {
    let links = netlink.links().map_err(kernel_error(&record.name, "list links"))?;
    if !links.iter().any(|link| link.index == record.index) {
        return Ok(());
    }
    let mut first = Ok(());
    let mut note = |step: String, result: io::Result<()>| {
        // The interface may go at any time; without it there is nothing to restore.
        let result = tolerate(result, &[libc::EEXIST, libc::ENODEV]);
        if let (Ok(()), Err(source)) = (&first, result) {
            first = Err(AdoptError::Kernel { name: record.name.clone(), step, source });
        }
    };
    if let (Some(before), Some(file)) = (&record.disable_ipv6, disable_ipv6) {
        note("restore disable_ipv6".to_owned(), file.write_all_at(before.as_bytes(), 0));
    }
    let passed = u32::try_from(now().saturating_sub(record.taken)).unwrap_or(u32::MAX);
    for saved in &record.addresses {
        let step = format!("restore the address {}", saved.what);
        match saved.message() {
            Some(RouteNetlinkMessage::NewAddress(mut message)) => {
                if age(&mut message, passed) {
                    let request = RouteNetlinkMessage::NewAddress(message);
                    note(step, netlink.request(request, NLM_F_CREATE | NLM_F_REPLACE));
                }
            }
            _ => note(step, Err(io::ErrorKind::InvalidData.into())),
        }
    }
    if !record.was_up {
        note("bring it down".to_owned(), netlink.set_up(record.index, false));
    }
    let (behind, direct): (Vec<_>, Vec<_>) = record.routes.iter().partition(|saved| {
        matches!(saved.message(), Some(RouteNetlinkMessage::NewRoute(m)) if needs_next_hop(&m))
    });
    for saved in direct.into_iter().chain(behind) {
        let step = format!("restore the route {}", saved.what);
        match saved.message() {
            Some(message @ RouteNetlinkMessage::NewRoute(_)) => {
                note(step, netlink.request(message, NLM_F_CREATE | NLM_F_REPLACE));
            }
            _ => note(step, Err(io::ErrorKind::InvalidData.into())),
        }
    }
    first
}

fn require(netlink: &mut Netlink, name: &str) -> Result<Link, AdoptError> {
    let link = netlink.link(name).map_err(kernel_error(name, "list links"))?;
    link.ok_or_else(|| AdoptError::NoInterface(name.to_owned()))
}

fn kernel_error(name: &str, step: &str) -> impl FnOnce(io::Error) -> AdoptError + use<> {
    let (name, step) = (name.to_owned(), step.to_owned());
    move |source| AdoptError::Kernel { name, step, source }
}

/// Turns errors that mean "already so" into success.
fn tolerate(result: io::Result<()>, errors: &[i32]) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(code) if errors.contains(&code) => Ok(()),
        _ => Err(error),
    })
}

/// `None` where there is no IPv6, or where `/proc/sys` is read-only (many containers): then the
/// addresses are removed one by one.
fn open_disable_ipv6(name: &str) -> Option<File> {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    OpenOptions::new().read(true).write(true).open(path).ok()
}

fn read_from_start(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Changes with every start of the machine.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The file that a record is in, locked.
#[derive(Debug)]
struct RecordFile {
    path: PathBuf,
    file: File,
    /// It holds a record that hasn't been made good.
    owed: bool,
}

impl RecordFile {
    fn open(name: &str, directory: &Path) -> Result<Self, AdoptError> {
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |m| m.ino());
        let path = directory.join(format!("adopted-{namespace}-{name}.json"));
        // A name with a slash in it would lead elsewhere.
        if name.contains('/') || name.starts_with('.') {
            return Err(AdoptError::NoInterface(name.to_owned()));
        }
        let fail = |source| AdoptError::Record { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(fail)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        loop {
            let file = options.open(&path).map_err(fail)?;
            match file.try_lock() {
                // Whoever had it may have removed it between the two calls.
                Ok(()) if file.metadata().map_err(fail)?.nlink() == 0 => {}
                Ok(()) => return Ok(Self { path, file, owed: false }),
                Err(TryLockError::WouldBlock) => return Err(AdoptError::Taken(name.to_owned())),
                Err(TryLockError::Error(error)) => return Err(fail(error)),
            }
        }
    }

    /// The record of a run that didn't give back. One that was only half written is no record:
    /// nothing is taken away before the writing is done.
    fn read(&mut self) -> Result<Option<Record>, AdoptError> {
        let text = read_from_start(&self.file).map_err(self.failed())?;
        let record: Option<Record> = serde_json::from_str(&text).ok();
        self.owed = record.is_some();
        Ok(record)
    }

    fn write(&mut self, record: &Record) -> Result<(), AdoptError> {
        let text = serde_json::to_string_pretty(record).map_err(io::Error::from);
        let written = text.and_then(|text| {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())?;
            self.file.sync_all()
        });
        written.map_err(self.failed())?;
        self.owed = true;
        Ok(())
    }

    /// All that it holds has been made good.
    fn settle(&mut self) {
        self.owed = false;
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> AdoptError {
        let path = self.path.clone();
        move |source| AdoptError::Record { path, source }
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        if !self.owed {
            // Emptied as well: what can't be unlinked mustn't be found as a record.
            let _ = self.file.set_len(0);
            let _ = fs::remove_file(&self.path);
        }
    }
}
