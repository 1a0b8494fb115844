//! The lab with one gateway or the other, and programs run in it.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate::lab::gateway::Engine;
use tidegate::lab::scene::{Devices, Plan, Scene};

pub type Failure = Box<dyn std::error::Error>;
pub type Outcome = Result<(), Failure>;
pub type Tried<T> = Result<T, Failure>;

/// Longer than any program here needs, on a machine that has much else to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// A lab that stands.
pub struct Stage {
    pub scene: Scene,
    pub kernel: bool,
    directory: TempDir,
}

impl Stage {
    /// With the kernel as the gateway, or Tidegate with its host device.
    pub fn build(kernel: bool) -> Tried<Self> {
        let directory = tempfile::tempdir()?;
        let engine = match kernel {
            true => Engine::Kernel,
            false => Engine::Tidegate { program: env!("CARGO_BIN_EXE_tidegate").into() },
        };
        let scene = Scene::build(&Plan {
            engine,
            devices: Devices::AfPacket,
            host_device: true,
            directory: directory.path().to_owned(),
        })?;
        Ok(Self { scene, kernel, directory })
    }

    /// The failure with what the gateway has to say.
    pub fn explain(&self, failure: &dyn std::error::Error) -> Failure {
        let log = fs::read_to_string(self.directory.path().join("gateway.log")).unwrap_or_default();
        let status = match self.kernel {
            true => String::new(),
            false => self.gateway(&["status"]).unwrap_or_else(|e| e.to_string()),
        };
        format!("{failure}\n{status}\n{log}").into()
    }

    /// Starts a program at a host, with pipes.
    pub fn start(&self, host: &str, command: &[&str]) -> Tried<Program> {
        self.start_with(host, command, Stdio::piped)
    }

    /// The same for one that prints much that nobody reads.
    pub fn start_quietly(&self, host: &str, command: &[&str]) -> Tried<Program> {
        self.start_with(host, command, Stdio::null)
    }

    fn start_with(&self, host: &str, command: &[&str], to: fn() -> Stdio) -> Tried<Program> {
        let [program, arguments @ ..] = command else { return Err("no program".into()) };
        let child = self.scene.at(host, || {
            Command::new(program)
                .args(arguments)
                // Outputs are read by words that other languages have others for.
                .env("LC_ALL", "C")
                .stdin(Stdio::null())
                .stdout(to())
                .stderr(to())
                .spawn()
        })?;
        Ok(Program { child: Some(child), shown: command.join(" ") })
    }

    /// Runs a program at a host and answers what it prints; it has to end well.
    pub fn run(&self, host: &str, command: &[&str]) -> Tried<String> {
        let shown = command.join(" ");
        let done = self.start(host, command)?.finish()?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        if done.status.success() {
            return Ok(said);
        }
        let errors = String::from_utf8_lossy(&done.stderr);
        Err(format!("{shown}: {}\n{said}{errors}", done.status).into())
    }

    /// `iptables` with these arguments at the gateway, the kernel's or Tidegate's.
    pub fn iptables(&self, arguments: &str) -> Outcome {
        self.tables("iptables", arguments)
    }

    /// The same for `iptables` or `ip6tables`.
    pub fn tables(&self, program: &str, arguments: &str) -> Outcome {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        if self.kernel {
            let program = format!("{program}-legacy");
            return self.run("gateway", &[&[&program[..]], &arguments[..]].concat()).map(drop);
        }
        self.gateway(&[&[program], &arguments[..]].concat()).map(drop)
    }

    /// A command of Tidegate's own.
    fn gateway(&self, arguments: &[&str]) -> Tried<String> {
        let done = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(arguments)
            .env("TIDEGATE_CONTROL", self.directory.path().join("control.sock"))
            .stdin(Stdio::null())
            .output()?;
        if done.status.success() {
            return Ok(String::from_utf8(done.stdout)?);
        }
        Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&done.stderr)).into())
    }
}

/// A program under way. It is ended when this is dropped.
pub struct Program {
    child: Option<Child>,
    shown: String,
}

impl Program {
    /// Waits for its end. None of the programs here prints more than fits into a pipe.
    pub fn finish(mut self) -> Tried<Output> {
        let started = Instant::now();
        let Some(child) = &mut self.child else { return Err("it has ended".into()) };
        while child.try_wait()?.is_none() {
            if started.elapsed() > DEADLINE {
                return Err(format!("{} doesn't end", self.shown).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let child = self.child.take().ok_or("it has ended")?;
        Ok(child.wait_with_output()?)
    }

    /// Waits for its end, which has to be a good one.
    pub fn finish_well(self) -> Outcome {
        let shown = self.shown.clone();
        let status = self.finish()?.status;
        if status.success() { Ok(()) } else { Err(format!("{shown}: {status}").into()) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until something is so.
pub fn wait(what: &str, mut so: impl FnMut() -> bool) -> Outcome {
    let started = Instant::now();
    while !so() {
        if started.elapsed() > DEADLINE {
            return Err(format!("not within {DEADLINE:?}: {what}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
