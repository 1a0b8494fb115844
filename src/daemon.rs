//! The running gateway: workers, signals, reloads, leases, logs.

use crate::config::{self, Config};
use crate::conntrack::{Hub, Moment};
use crate::control::Reserved;
use crate::dhcp::{DhcpClient, Lease};
use crate::diagnostic::{Diagnostic, Report, Severity, Style};
use crate::engine::{self, InterfaceId, Leases, PortId};
use crate::gateway::Gateway;
use crate::handover::{Bell, HandOver};
use crate::io::bypass::Bypass;
use crate::link::netlink::LinkChanges;
use crate::log::{LogError, Sinks};
use crate::notify;
use crate::rules::{self, Rulesets};
use crate::setup::{self, Held, SetupError};
use crate::state;
use crate::worker::{Clock, Device, News, Worker, unix_nanos};
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate_filter::Sets;

mod answers;
mod devices;
mod leases;
mod saved;

use answers::Control;
use devices::LOOK_FOR_DEVICES;
use saved::{Keeper, Schedule};

/// Why a gateway ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A rules file is wrong.
    #[error("the rules don't load")]
    Rules(Report),
    /// The saved state is damaged.
    #[error("the saved state doesn't load")]
    State(Report),
    /// The state can't be written where it is to be.
    #[error("the state can't be kept in {path}: {source}")]
    StatePlace {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
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
    /// A link of this namespace was changed.
    Links,
}

/// Reads the configuration again, for SIGHUP.
pub type Reload = Box<dyn Fn() -> Result<Config, Report>>;

/// Runs a gateway until SIGTERM or SIGINT.
pub fn run(config: Config, reload: Reload) -> Result<(), DaemonError> {
    let clock = Clock::start();
    let sets = Sets::new();
    // A set of the state is newer than its file.
    let state = saved::read(&config, &sets, clock.now()).map_err(DaemonError::State)?;
    if let Some(config::State { file, .. }) = &config.state {
        let refused = |source| DaemonError::StatePlace { path: file.display().to_string(), source };
        state::try_place(file).map_err(refused)?;
    }
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
    // Before other threads and before the devices: a signal from now on ends the gateway in order.
    let signals = watch_signals(wake.clone())?;
    let sinks = Sinks::open(&config.log)?;
    let built = setup::build(&config, v4, v6, clock)?;
    if let Some(refused) = built.held.kernel_not_held() {
        tracing::info!("the kernel handles what we take as well, which costs speed: {refused}");
    }
    let mut engine = built.engine;
    engine.set_time(clock.now(), unix_nanos());
    if built.config != config {
        // The built-in rules name networks, which are known only now.
        let rulesets = rules::load(&built.config, &sets).map_err(DaemonError::Rules)?;
        fingerprints = rulesets.fingerprints;
        engine.replace_rules(rulesets.v4, rulesets.v6);
    }
    engine.listen(sinks.groups().clone());
    let gateway = Gateway::new(engine, built.workers.len());
    let bypass = built.bypass.map(|bypass| {
        let leases = Arc::new(Leases::new(bypass.clone(), built.links.len(), engine::OFTEN));
        for (port, link) in built.links.iter().enumerate() {
            leases.set_link(PortId(port as u16), *link);
        }
        gateway.change(|engine| engine.set_leases(&leases));
        (bypass, leases)
    });
    let keeper = Keeper::new(gateway.clone(), clock, fingerprints, sets.clone());
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
    watch_links(wake.clone())?;
    let workers = start_workers(built.workers, &gateway, clock, &news, &wake)?;
    let hub = Arc::new(Hub::default());
    let mut manager = Manager {
        schedule: Schedule::new(config.state.as_ref(), clock.now()),
        keeper: keeper.clone(),
        dhcp: HashMap::new(),
        written: config,
        config: built.config,
        sets: sets.clone(),
        gateway: gateway.clone(),
        clock,
        reload,
        news: news.clone(),
        hub: hub.clone(),
        sinks,
        waker: workers.threads.first().map(|thread| thread.waker.clone()),
        held: built.held,
        missing: HashMap::new(),
        opened: HashMap::new(),
        bypass,
        reopened: 0,
        inboxes: workers.threads.iter().map(|t| (t.inbox.clone(), t.waker.clone())).collect(),
    };
    manager.start_dhcp();
    let uplinks = manager.config.uplinks().map(|i| i.name.clone()).collect();
    let handler = Control {
        gateway,
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
    waker: Arc<Bell>,
    inbox: Sender<(PortId, Device)>,
}

fn start_workers(
    devices: Vec<Vec<Device>>,
    gateway: &Gateway,
    clock: Clock,
    news: &Arc<News>,
    wake: &Sender<Wake>,
) -> io::Result<Workers> {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut workers, mut bells, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
    for (number, devices) in devices.into_iter().enumerate() {
        let (inbox, received) = mpsc::channel();
        let tell = wake.clone();
        let worker = Worker {
            gateway: gateway.clone(),
            shard: number % gateway.shards(),
            devices,
            clock,
            stop: stop.clone(),
            news: news.clone(),
            sent: Vec::new(),
            inbox: received,
            handover: HandOver::default(),
            // The manager is gone only when everything ends.
            gone: Box::new(move |port| drop(tell.send(Wake::Gone(port)))),
        };
        let (poll, bell) = worker.poll()?;
        workers.push((worker, poll));
        bells.push(bell);
        inboxes.push(inbox);
    }
    let mut threads = Vec::new();
    let ends = HandOver::between(&bells);
    let parts = workers.into_iter().zip(ends).zip(bells.into_iter().zip(inboxes)).enumerate();
    for (number, (((mut worker, poll), handover), (bell, inbox))) in parts {
        worker.handover = handover;
        let (wake, waker) = (wake.clone(), bell.clone());
        let handle =
            std::thread::Builder::new().name(format!("worker{number}")).spawn(move || {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    worker.run(poll, &bell)
                }));
                let result = match ended {
                    Ok(result) => result.map_err(|e| e.to_string()),
                    Err(_) => Err("panic".to_owned()),
                };
                let _ = wake.send(Wake::WorkerEnded(result));
            })?;
        threads.push(Thread { handle, waker, inbox });
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
    // Between a handler's `sigaction` and its entry in signal-hook's table a signal is lost, so they
    // wait meanwhile. They wait for the process only as long as this is its only thread.
    let held = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect::<SigSet>();
    held.thread_block()?;
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    held.thread_unblock()?;
    let mut signals = signals?;
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

/// Tells of changes of links, on a thread that ends with the process: there is nothing to wake it.
fn watch_links(wake: Sender<Wake>) -> io::Result<()> {
    let mut changes = LinkChanges::open()?;
    std::thread::Builder::new().name("links".to_owned()).spawn(move || {
        while changes.wait().is_ok() {
            if wake.send(Wake::Links).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// A worker's inbox for devices, and what makes it look.
type Inbox = (Sender<(PortId, Device)>, Arc<Bell>);

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
    gateway: Gateway,
    clock: Clock,
    reload: Reload,
    dhcp: HashMap<InterfaceId, (DhcpClient, Option<Lease>)>,
    news: Arc<News>,
    /// Who listens to what happens to connections.
    hub: Arc<Hub>,
    /// Of the worker that sends what the manager leaves in the engine.
    waker: Option<Arc<Bell>>,
    held: Held,
    /// Ports whose device is gone, and what hindered the last attempt to open it again.
    missing: HashMap<PortId, String>,
    /// The index of the interface that a port was opened again on.
    opened: HashMap<PortId, u32>,
    /// Who forwards flows for the gateway, and what is leased to it.
    bypass: Option<(Arc<Bypass>, Arc<Leases>)>,
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
                Ok(Wake::Links) => self.follow_mtus(),
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
        let old = self.gateway.change(|engine| {
            if engine.rules_in_force().edited() {
                rulesets.warnings.push(saved::dropped());
            }
            engine.replace_sysctls(self.config.sysctls.clone());
            engine.listen_to_connections(!self.hub.is_empty());
            let old = engine.replace_rules(rulesets.v4, rulesets.v6);
            self.keeper.loaded(engine, rulesets.fingerprints);
            old
        });
        drop(old);
        tracing::info!("rules reloaded");
        Ok(rulesets.warnings)
    }

    /// Log lines, DHCP answers and connections' events that the workers have left.
    fn take_news(&mut self) {
        let (events, expected, lost) = self.gateway.take_events();
        let (log, frames) = {
            let mut engine = self.gateway.engine();
            if !(events.is_empty() && expected.is_empty()) && self.hub.is_empty() {
                engine.listen_to_connections(false);
            }
            (engine.take_log(), engine.take_dhcp())
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
