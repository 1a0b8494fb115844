//! The running gateway: workers, signals, reloads, leases, logs.

use crate::config::{Config, PortKind};
use crate::conntrack::gateway::{self, Peer};
use crate::conntrack::{Ask, Hub, Moment, Tell};
use crate::control::{self, Handler, InterfaceStatus, Ran, Reserved, Restore, Status};
use crate::dhcp::{DhcpClient, Lease};
use crate::diagnostic::{Diagnostic, Report, Severity, Style};
use crate::engine::{Counters, Engine, Interface, InterfaceId, PortId, Traffic};
use crate::link::netlink::Netlink;
use crate::log::{LogError, Sinks, Tally};
use crate::notify;
use crate::rules::{self, Rulesets};
use crate::setup::{self, Held, Reopened, SetupError};
use crate::worker::{Clock, Device, News, Worker, lock, unix_nanos};
use mio::Waker;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate_filter::live::{self, Answer, Call, Present};
use tidegate_filter::{SaveStyle, Sets};
use tidegate_packet::{Family, Instant};

mod leases;
mod saved;

use saved::{Keeper, RestoreOptions, Schedule};

/// Why a gateway ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A rules file is wrong.
    #[error("the rules don't load")]
    Rules(Report),
    /// The saved state is damaged.
    #[error("the saved state doesn't load")]
    State(Report),
    /// A log file can't be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An interface or device can't be had.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The control socket can't be made.
    #[error("control socket {path}: {source}")]
    Control {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A worker ended by itself.
    #[error("a worker ended: {0}")]
    Worker(String),
    /// The operating system refused something basic.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What wakes the manager.
enum Wake {
    Signal(i32),
    News,
    Reload(Sender<Result<Vec<String>, String>>),
    WorkerEnded(Result<(), String>),
    /// A worker has found that a port's device doesn't exist any more.
    Gone(PortId),
}

/// A device that is gone is looked for in such intervals.
const LOOK_FOR_DEVICES: Duration = Duration::from_millis(300);

/// Reads the configuration again, for SIGHUP.
pub type Reload = Box<dyn Fn() -> Result<Config, Report>>;

/// Runs a gateway until SIGTERM or SIGINT.
pub fn run(config: Config, reload: Reload) -> Result<(), DaemonError> {
    let clock = Clock::start();
    let sets = Sets::new();
    // A set of the state is newer than its file.
    let state = saved::read(&config, &sets, clock.now()).map_err(DaemonError::State)?;
    sets.add_missing(&rules::sets(&config, clock.now()).map_err(DaemonError::Rules)?);
    let Rulesets { v4, v6, warnings, mut fingerprints } =
        rules::load(&config, &sets).map_err(DaemonError::Rules)?;
    let report = Report { diagnostics: warnings };
    say(&report.render(Style::of_stderr()));
    setup::check_rights()?;
    let (wake, woken) = mpsc::channel();
    let control_error = |path: &Path| {
        let path = path.display().to_string();
        move |source| DaemonError::Control { path, source }
    };
    let path = config.control.clone();
    let reserved = Reserved::new(&path).map_err(control_error(&path))?;
    let sinks = Sinks::open(&config.log)?;
    // Before the devices: a signal from now on ends the gateway in order.
    let signals = watch_signals(wake.clone())?;
    let gateway = setup::build(&config, v4, v6)?;
    if let Some(refused) = gateway.held.kernel_not_held() {
        tracing::info!("the kernel handles what we take as well, which costs speed: {refused}");
    }
    let mut engine = gateway.engine;
    engine.set_time(clock.now(), unix_nanos());
    if gateway.config != config {
        // The built-in rules name networks, which are known only now.
        let rulesets = rules::load(&gateway.config, &sets).map_err(DaemonError::Rules)?;
        fingerprints = rulesets.fingerprints;
        engine.replace_rules(rulesets.v4, rulesets.v6);
    }
    engine.listen(sinks.groups().clone());
    let engine = Arc::new(Mutex::new(engine));
    let keeper = Keeper::new(engine.clone(), clock, fingerprints, sets.clone());
    if let Some(state) = state {
        keeper.restore(state);
    }
    let news = News::new({
        let wake = Mutex::new(wake.clone());
        Box::new(move || {
            // The manager is gone only when everything ends.
            let _ = wake.lock().map(|w| w.send(Wake::News));
        })
    });
    let workers = start_workers(gateway.workers, &engine, clock, &news, &wake)?;
    let hub = Arc::new(Hub::default());
    let mut manager = Manager {
        schedule: Schedule::new(config.state.as_ref(), clock.now()),
        keeper: keeper.clone(),
        dhcp: HashMap::new(),
        written: config,
        config: gateway.config,
        sets: sets.clone(),
        engine: engine.clone(),
        clock,
        reload,
        news: news.clone(),
        hub: hub.clone(),
        sinks,
        waker: workers.threads.first().map(|thread| thread.waker.clone()),
        held: gateway.held,
        missing: HashMap::new(),
        opened: HashMap::new(),
        reopened: 0,
        inboxes: workers.threads.iter().map(|t| (t.inbox.clone(), t.waker.clone())).collect(),
    };
    manager.start_dhcp();
    let uplinks = manager.config.uplinks().map(|i| i.name.clone()).collect();
    let handler = Control {
        engine,
        sets,
        wake: Mutex::new(wake),
        writer: Mutex::new(()),
        workers: workers.threads.len(),
        uplinks,
        started: clock.now(),
        clock,
        tally: manager.sinks.tally(),
        keeper,
        news,
        hub,
    };
    let result =
        reserved.open(Arc::new(handler)).map_err(control_error(&path)).and_then(|socket| {
            tracing::info!(control = %path.display(), "forwarding");
            notify::ready();
            let result = manager.run(&woken);
            notify::stopping();
            drop(socket);
            result
        });
    manager.release_leases();
    workers.stop();
    let held = manager.end();
    signals.close();
    for error in held.give_back() {
        tracing::error!("giving back: {error}");
    }
    result
}

/// Worker threads, and what ends them.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<Thread>,
}

/// A worker's thread and the ways to reach it.
struct Thread {
    handle: JoinHandle<()>,
    waker: Arc<Waker>,
    inbox: Sender<(PortId, Device)>,
}

fn start_workers(
    devices: Vec<Vec<Device>>,
    engine: &Arc<Mutex<Engine>>,
    clock: Clock,
    news: &Arc<News>,
    wake: &Sender<Wake>,
) -> io::Result<Workers> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for (number, devices) in devices.into_iter().enumerate() {
        let (inbox, received) = mpsc::channel();
        let tell = wake.clone();
        let worker = Worker {
            engine: engine.clone(),
            devices,
            clock,
            stop: stop.clone(),
            news: news.clone(),
            sent: Vec::new(),
            inbox: received,
            // The manager is gone only when everything ends.
            gone: Box::new(move |port| drop(tell.send(Wake::Gone(port)))),
        };
        let (poll, waker) = worker.poll()?;
        let wake = wake.clone();
        let handle =
            std::thread::Builder::new().name(format!("worker{number}")).spawn(move || {
                let ended =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run(poll)));
                let result = match ended {
                    Ok(result) => result.map_err(|e| e.to_string()),
                    Err(_) => Err("panic".to_owned()),
                };
                let _ = wake.send(Wake::WorkerEnded(result));
            })?;
        threads.push(Thread { handle, waker: Arc::new(waker), inbox });
    }
    Ok(Workers { stop, threads })
}

impl Workers {
    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads {
            if thread.waker.wake().is_ok() {
                let _ = thread.handle.join();
            }
        }
    }
}

/// Turns signals into messages, on a thread of their own.
fn watch_signals(wake: Sender<Wake>) -> io::Result<signal_hook::iterator::Handle> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let handle = signals.handle();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if wake.send(Wake::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(handle)
}

/// A worker's inbox for devices, and what makes it look.
type Inbox = (Sender<(PortId, Device)>, Arc<Waker>);

/// What the main thread does while the workers forward.
struct Manager {
    schedule: Schedule,
    keeper: Keeper,
    sinks: Sinks,
    /// As it was written at the start.
    written: Config,
    /// With what was found on interfaces filled in.
    config: Config,
    /// The sets that rules of both families name.
    sets: Sets,
    engine: Arc<Mutex<Engine>>,
    clock: Clock,
    reload: Reload,
    dhcp: HashMap<InterfaceId, (DhcpClient, Option<Lease>)>,
    news: Arc<News>,
    /// Who listens to what happens to connections.
    hub: Arc<Hub>,
    /// Of the worker that sends what the manager leaves in the engine.
    waker: Option<Arc<Waker>>,
    held: Held,
    /// Ports whose device is gone, and what hindered the last attempt to open it again.
    missing: HashMap<PortId, String>,
    /// The index of the interface that a port was opened again on.
    opened: HashMap<PortId, u32>,
    /// How often a port was opened again.
    reopened: u16,
    /// Where the workers take new devices from.
    inboxes: Vec<Inbox>,
}

impl Manager {
    fn run(&mut self, woken: &Receiver<Wake>) -> Result<(), DaemonError> {
        loop {
            self.poll_dhcp();
            self.save_if_due();
            self.look_for_devices();
            match woken.recv_timeout(self.next_wake()) {
                Ok(Wake::Signal(SIGHUP)) => {
                    let report = match self.reload() {
                        Ok(diagnostics) => Report { diagnostics },
                        Err(problem) => {
                            tracing::error!("reload failed; the old rules stay in force");
                            problem
                        }
                    };
                    say(&report.render(Style::of_stderr()));
                }
                Ok(Wake::Signal(_)) => return Ok(()),
                Ok(Wake::Reload(answer)) => {
                    let plain = |report: Report| report.render(Style::PLAIN);
                    let warnings = |w: Vec<Diagnostic>| w.iter().map(ToString::to_string).collect();
                    let result = self.reload().map(warnings).map_err(plain);
                    // The client may have gone.
                    let _ = answer.send(result);
                }
                Ok(Wake::News) => {
                    self.news.taken();
                    self.take_news();
                }
                Ok(Wake::WorkerEnded(Ok(()))) => {
                    return Err(DaemonError::Worker("it was told to".to_owned()));
                }
                Ok(Wake::WorkerEnded(Err(why))) => return Err(DaemonError::Worker(why)),
                Ok(Wake::Gone(port)) => {
                    self.missing.insert(port, String::new());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Takes rules and kernel parameters from the configuration as it is now, and sets that aren't
    /// there yet. Interfaces, routes and workers stay as they were.
    fn reload(&mut self) -> Result<Vec<Diagnostic>, Report> {
        notify::reloading();
        // logrotate asks for this, whatever the rules are like.
        self.sinks.reopen();
        let result = self.reload_rules();
        notify::ready();
        result
    }

    fn reload_rules(&mut self) -> Result<Vec<Diagnostic>, Report> {
        let fresh = (self.reload)()?;
        let mut config = self.config.clone();
        config.rules = fresh.rules.clone();
        config.sysctls = fresh.sysctls.clone();
        let fresh_sets = rules::sets(&config, self.clock.now())?;
        let added = self.sets.add_missing(&fresh_sets);
        let loaded = rules::load(&config, &self.sets);
        let mut rulesets = loaded.inspect_err(|_| self.sets.withdraw(&added))?;
        if (Config {
            rules: self.written.rules.clone(),
            sysctls: self.written.sysctls.clone(),
            ..fresh
        }) != self.written
        {
            let text = "only rules and sysctls are taken by a reload; what else has changed is \
                        taken at the next start";
            rulesets
                .warnings
                .push(Diagnostic { severity: Severity::Warning, ..Diagnostic::unplaced(text) });
        }
        self.config = config;
        let mut engine = lock(&self.engine);
        if engine.rules_in_force().edited() {
            rulesets.warnings.push(saved::dropped());
        }
        engine.replace_sysctls(self.config.sysctls.clone());
        engine.listen_to_connections(!self.hub.is_empty());
        engine.replace_rules(rulesets.v4, rulesets.v6);
        self.keeper.loaded(&engine, rulesets.fingerprints);
        drop(engine);
        tracing::info!("rules reloaded");
        Ok(rulesets.warnings)
    }

    /// Log lines, DHCP answers and connections' events that the workers have left.
    fn take_news(&mut self) {
        let (log, frames, (events, lost), expected) = {
            let mut engine = lock(&self.engine);
            if engine.conntrack().has_events() && self.hub.is_empty() {
                engine.listen_to_connections(false);
            }
            let events = engine.conntrack_mut().take_events();
            let expected = engine.conntrack_mut().take_expectation_events();
            (engine.take_log(), engine.take_dhcp(), events, expected)
        };
        self.sinks.take(log);
        let moment = Moment { now: self.clock.now(), unix_nanos: unix_nanos() };
        self.hub.publish(&events, lost, moment);
        self.hub.publish_expected(&expected, moment);
        let now = self.clock.now();
        for (interface, frame) in frames {
            if let Some((client, _)) = self.dhcp.get_mut(&interface) {
                client.input(&frame, now);
            }
        }
    }

    /// Opens devices again whose interface was deleted and made anew.
    fn look_for_devices(&mut self) {
        let missing: Vec<PortId> = self.missing.keys().copied().collect();
        for port in missing {
            let name = lock(&self.engine).interfaces().port_name(port).to_owned();
            // The host device is made by a start only.
            if self.config.port(&name).is_none() {
                self.missing.remove(&port);
                continue;
            }
            let found = Netlink::open().and_then(|mut netlink| netlink.link(&name));
            let Ok(Some(link)) = found else { continue };
            // Each worker tells that it has lost the device, the last one perhaps after this.
            if self.opened.get(&port) == Some(&link.index) {
                self.missing.remove(&port);
                continue;
            }
            match self.open_again(port, &name) {
                Ok(()) => {
                    tracing::info!(port = name, "device is there again");
                    self.opened.insert(port, link.index);
                    self.missing.remove(&port);
                }
                Err(error) => {
                    let why = error.to_string();
                    let before = self.missing.insert(port, why.clone());
                    if before.as_ref() != Some(&why) {
                        tracing::warn!(port = name, error = why, "can't open the device again");
                    }
                }
            }
        }
    }

    fn open_again(&mut self, port: PortId, name: &str) -> Result<(), SetupError> {
        let ports = lock(&self.engine).interfaces().port_count() as u16;
        self.reopened = self.reopened.wrapping_add(1);
        let number = ports.wrapping_add(self.reopened);
        let workers = self.inboxes.len();
        let again = setup::reopen(&self.config, name, number, workers, &mut self.held)?;
        self.take_link(port, name, &again);
        for (device, (inbox, waker)) in again.devices.into_iter().zip(&self.inboxes) {
            // Workers end only when everything does.
            let _ = inbox.send((port, device));
            let _ = waker.wake();
        }
        Ok(())
    }

    /// An interface of one port has that port's link address and MTU, unless they were configured.
    fn take_link(&mut self, port: PortId, name: &str, again: &Reopened) {
        let Some((kind, bridged)) = self.config.port(name) else { return };
        let Some(wanted) = self.config.interface(name) else { return };
        if bridged {
            return;
        }
        let mut engine = lock(&self.engine);
        let id = engine.interfaces().of_port(port);
        let before = engine.interfaces().get(id).mac;
        // The address behind a TAP device is the gateway's own business and stays.
        let found = if kind == PortKind::Tap { before } else { again.mac };
        let mac = wanted.mac.unwrap_or(found);
        engine.replace_link(id, mac, wanted.mtu.unwrap_or(again.mtu));
        if self.dhcp.contains_key(&id) {
            let client = DhcpClient::new(mac, rand::random(), self.clock.now());
            let lease = self.dhcp.remove(&id).and_then(|(_, lease)| lease);
            self.dhcp.insert(id, (client, lease));
        }
    }

    fn save_if_due(&mut self) {
        if self.schedule.due(self.clock.now())
            && let Some(state) = &self.config.state
        {
            self.keeper.save(state);
        }
    }

    /// What is left to be done once the workers have ended.
    fn end(mut self) -> Held {
        self.take_news();
        if let Some(state) = &self.config.state {
            self.keeper.save(state);
        }
        self.sinks.end();
        self.held
    }

    fn next_wake(&mut self) -> Duration {
        let now = self.clock.now();
        let dhcp = self.dhcp.values_mut().filter_map(|(client, _)| client.next_poll(now));
        let due = dhcp.chain(self.schedule.next()).min();
        let due = due.map_or(Duration::from_secs(3600), |at| at - now);
        if self.missing.is_empty() { due } else { due.min(LOOK_FOR_DEVICES) }
    }
}

/// Writes to standard error. That nobody reads it any more must not end a gateway.
fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Answers the control socket.
struct Control {
    engine: Arc<Mutex<Engine>>,
    sets: Sets,
    wake: Mutex<Sender<Wake>>,
    /// Held while a call changes rules.
    writer: Mutex<()>,
    workers: usize,
    uplinks: Vec<String>,
    started: Instant,
    clock: Clock,
    tally: Tally,
    keeper: Keeper,
    news: Arc<News>,
    /// Who listens to what happens to connections.
    hub: Arc<Hub>,
}

impl Handler for Control {
    fn status(&self) -> Status {
        let engine = lock(&self.engine);
        let counters = engine.counters();
        let interfaces = engine.interfaces().iter().filter(|(_, i)| i.name != "lo");
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: (self.clock.now() - self.started).as_secs(),
            workers: self.workers,
            connections: engine.conntrack().len() as u64,
            interfaces: interfaces.map(|(_, i)| self.interface(i, counters)).collect(),
            drops: counters.drops().map(|(d, n)| (d.name().to_owned(), n)).collect(),
            logged: self.tally.written(),
            log_lost: self.tally.lost(),
        }
    }

    fn reload(&self) -> Result<Vec<String>, String> {
        let (answer, answered) = mpsc::channel();
        let wake = self.wake.lock().map_err(|e| e.to_string())?.clone();
        wake.send(Wake::Reload(answer)).map_err(|_| "the gateway is ending".to_owned())?;
        answered.recv().map_err(|_| "the gateway is ending".to_owned())?
    }

    fn rules(&self, family: Family) -> String {
        let stamp = crate::ctime::now();
        let engine = lock(&self.engine);
        let rules = engine.rules_in_force();
        let style = SaveStyle { stamp: &stamp, rule_counters: true };
        rules.of(family).save(Some(rules.counters(family)), style)
    }

    fn call(&self, program: control::Program, family: Family, args: &[String], input: &str) -> Ran {
        let program = match program {
            control::Program::Iptables => live::Program::Iptables,
            control::Program::Save => live::Program::Save,
            control::Program::Restore => live::Program::Restore,
        };
        let stamp = crate::ctime::now();
        let call = Call { program, family, args, input, stamp: &stamp };
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // The work is done on a snapshot: packets wait only while the result is put in force.
            let (ruleset, counters) = lock(&self.engine).rules_in_force().snapshot(family);
            let present = Present { ruleset: &ruleset, counters: &counters };
            let Answer { status, out, err, change } = live::run(call, present);
            let Some(change) = change else { return Ran { status, out, err } };
            let done = lock(&self.engine).change_rules(&ruleset, change, &counters);
            // Otherwise a reload came between.
            if done.is_ok() {
                return Ran { status, out, err };
            }
        }
    }

    fn save(&self) -> String {
        self.keeper.text()
    }

    fn restore(&self, inputs: &[Restore], noflush: bool, counters: bool) -> Result<String, String> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.keeper.restore_live(inputs, RestoreOptions { noflush, counters })
    }

    fn conntrack(&self, ask: Ask, peer: &mut Peer) -> Tell {
        let moment = Moment { now: self.clock.now(), unix_nanos: unix_nanos() };
        let tell = gateway::answer(&self.engine, &self.hub, peer, ask, moment);
        // What was done by hand is an event, too.
        if lock(&self.engine).has_news() {
            self.news.announce();
        }
        tell
    }

    fn ipset(&self, args: &[String], input: &str) -> Ran {
        let answer = self.sets.call(args, input, self.clock.now());
        Ran { status: answer.status, out: answer.out, err: answer.err }
    }

    fn recent(&self, name: Option<&str>, write: Option<&str>) -> Result<String, String> {
        let engine = lock(&self.engine);
        let memory = engine.rules_in_force().memory();
        let absent = |name: &str| format!("no rule uses a list {name}");
        match (name, write) {
            (None, Some(_)) => Err("which list?".to_owned()),
            (None, None) => {
                Ok(memory.names().into_iter().fold(String::new(), |text, name| text + &name + "\n"))
            }
            (Some(name), None) => memory.text(name).ok_or_else(|| absent(name)),
            (Some(name), Some(write)) => match memory.write(name, write, self.clock.now()) {
                Some(Ok(())) => Ok(String::new()),
                Some(Err(why)) => Err(why),
                None => Err(absent(name)),
            },
        }
    }
}

impl Control {
    fn interface(&self, interface: &Interface, counters: &Counters) -> InterfaceStatus {
        let total = |traffic: &[Traffic]| {
            interface.ports.iter().map(|p| traffic[usize::from(p.0)]).fold(
                Traffic::default(),
                |sum, t| Traffic { packets: sum.packets + t.packets, bytes: sum.bytes + t.bytes },
            )
        };
        let (received, sent) = (total(&counters.received), total(&counters.sent));
        InterfaceStatus {
            name: interface.name.clone(),
            uplink: self.uplinks.contains(&interface.name),
            addresses: interface.addresses.iter().map(ToString::to_string).collect(),
            mac: interface.mac.to_string(),
            mtu: interface.mtu,
            rx_packets: received.packets,
            rx_bytes: received.bytes,
            tx_packets: sent.packets,
            tx_bytes: sent.bytes,
        }
    }
}
