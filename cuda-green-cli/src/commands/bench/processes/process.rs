//! A process of this program that takes orders.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use cuda_green::CudaDevice;

use super::protocol::{Answer, Order};
use crate::args::ProcessPart;

/// The longest time that an answer takes: a process's first waits for the driver and for the MPS server.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest time that a worker takes to end, and the keeper, which waits for the MPS daemon.
const END_OF_WORKER: Duration = Duration::from_secs(10);
const END_OF_KEEPER: Duration = Duration::from_secs(30);

/// A process, which is told to end when this is dropped.
pub struct Process {
    name: &'static str,
    child: Child,
    /// None once it was told to end.
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    /// The longest time that it takes to end.
    limit: Duration,
}

impl Process {
    /// Starts a process for this part, with the driver and the number of a device and these variables; `None` removes one.
    pub fn start(
        name: &'static str,
        part: ProcessPart,
        device: &CudaDevice,
        variables: &[(&str, Option<String>)],
    ) -> anyhow::Result<Self> {
        let limit = match part {
            ProcessPart::Keeper => END_OF_KEEPER,
            ProcessPart::Worker => END_OF_WORKER,
        };
        let part = part.to_possible_value().context("a part without a name")?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["bench", "processes", "--part", part.get_name()])
            .args(["--device", &device.ordinal().to_string()])
            .env("CUDA_GREEN_DRIVER", device.driver().source())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for (variable, value) in variables {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        // Ctrl-C ends this process alone. The others see that their orders end, and first wait for their work: a client of
        // MPS that is killed with work in flight can take its neighbours with it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let orders = child.stdin.take();
        let stdout = child.stdout.take();
        let (sender, answers) = mpsc::channel();
        let process = Self {
            name,
            child,
            orders,
            answers,
            limit,
        };
        let stdout = stdout.context("a process without output")?;
        // It ends with the process, whose output it reads.
        thread::Builder::new().spawn(move || {
            let lines = BufReader::new(stdout).lines();
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        })?;
        Ok(process)
    }

    /// Sends an order.
    pub fn send(&mut self, order: &Order) -> anyhow::Result<()> {
        let text = serde_json::to_string(order)? + "\n";
        let sent = match &mut self.orders {
            Some(orders) => orders.write_all(text.as_bytes()),
            None => bail!("{} was told to end", self.name),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(self.ended().unwrap_or_else(|| error.into())),
        }
    }

    /// Returns the answer to an order, whatever it is.
    pub fn answer(&mut self) -> anyhow::Result<Answer> {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line)
                .with_context(|| format!("{} answered {line:.200?}", self.name)),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} did not answer within {PATIENCE:?}", self.name)
            }
            Err(RecvTimeoutError::Disconnected) => Err(self
                .ended()
                .unwrap_or_else(|| anyhow::anyhow!("{} closed its output", self.name))),
        }
    }

    /// Sends an order, and returns the answer; an error if it failed.
    pub fn ask(&mut self, order: &Order) -> anyhow::Result<Answer> {
        self.send(order)?;
        match self.answer()? {
            Answer::Failed(reason) => bail!("{}: {reason}", self.name),
            answer => Ok(answer),
        }
    }

    /// Returns the error for an answer to another order.
    pub fn confused(&self, answer: &Answer) -> anyhow::Error {
        anyhow::anyhow!("{} answered {answer:?}", self.name)
    }

    /// Tells the process to end, and waits for it.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.orders = None;
        let limit = self.limit;
        let status = self.wait(limit)?;
        let status =
            status.with_context(|| format!("{} did not end within {limit:?}", self.name))?;
        ensure!(status.success(), "{} failed: {status}", self.name);
        Ok(())
    }

    /// Returns the error for a process that ended by itself; none if it has not.
    fn ended(&mut self) -> Option<anyhow::Error> {
        // Its output ends a moment before it does.
        let status = self.wait(Duration::from_secs(1)).ok()??;
        Some(anyhow::anyhow!("{} ended: {status}", self.name))
    }

    fn wait(&mut self, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < end => thread::sleep(Duration::from_millis(2)),
                ended => return Ok(ended),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.orders = None;
        if !matches!(self.wait(self.limit), Ok(Some(_))) {
            // It hangs, and must not be left behind.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
