//! Connections listed, changed, deleted and made, and the forms that they are printed in.

use super::{End, Run, failed, odd};
use crate::conntrack::options::{Command, Form, Verb};
use crate::conntrack::{Action, Ask, Entry, Fault, Tell, What, json, save, text, xml};
use std::io;

impl Run<'_> {
    /// Page after page of those that fit, with something done to them.
    pub(super) fn walk(&mut self, command: &Command, action: Action) -> Result<u64, End> {
        let (mut cursor, mut count) = (0, 0);
        loop {
            let filter = Box::new(command.filter.clone());
            let tell = self.ask(Ask::Walk { filter, action: action.clone(), cursor })?;
            let (entries, next, now) = match tell {
                Tell::Page { entries, next, now } => (entries, next, now),
                Tell::Fault(fault) => return Err(failed(fault, None)),
                _ => return Err(odd()),
            };
            // The kernel tells the age of those that are shown, not of those that are deleted.
            for entry in &entries {
                self.print(command, entry, count == 0, now)?;
                count += 1;
            }
            match next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        if command.form == Form::Xml && count > 0 {
            self.out.write_all(xml::TAIL.as_bytes())?;
        }
        Ok(count)
    }

    fn print(&mut self, command: &Command, entry: &Entry, first: bool, now: u64) -> io::Result<()> {
        if first && command.form == Form::Xml {
            self.out.write_all(xml::HEAD.as_bytes())?;
        }
        let line = formatted(command, entry, None, now, self.labels.as_deref().unwrap_or(&[]));
        self.out.write_all(line.as_bytes())?;
        self.out.write_all(b"\n")
    }

    pub(super) fn get(&mut self, command: &Command) -> Result<u64, End> {
        let Some((protocol, side, reply)) = command.exact_side() else {
            return Err(failed(Fault::Invalid, Some(Verb::Get)));
        };
        match self.ask(Ask::Get { protocol, side, reply })? {
            Tell::Page { entries, now, .. } => {
                let mut count = 0;
                // What else was said has to be so, too.
                for entry in entries.iter().filter(|entry| command.filter.fits(entry)) {
                    self.print(command, entry, count == 0, now)?;
                    count += 1;
                }
                if command.form == Form::Xml && count > 0 {
                    self.out.write_all(xml::TAIL.as_bytes())?;
                }
                Ok(count)
            }
            Tell::Fault(fault) => Err(failed(fault, Some(Verb::Get))),
            _ => Err(odd()),
        }
    }

    pub(super) fn create(&mut self, command: &Command, exclusive: bool) -> Result<u64, End> {
        let verb = if exclusive { Verb::Create } else { Verb::Add };
        let entry = command.entry().ok_or_else(|| failed(Fault::Invalid, Some(verb)))?;
        match self.ask(Ask::Create { entry: Box::new(entry), exclusive })? {
            Tell::Done => Ok(1),
            Tell::Fault(fault) => Err(failed(fault, Some(verb))),
            _ => Err(odd()),
        }
    }
}

/// An entry, or an event about it, as the command wants it.
pub(super) fn formatted(
    command: &Command,
    entry: &Entry,
    what: Option<What>,
    now: u64,
    labels: &[(u8, String)],
) -> String {
    let name = |bit: u8| {
        let found = labels.iter().find(|(b, _)| *b == bit).map(|(_, name)| name.clone());
        found.unwrap_or_else(|| bit.to_string())
    };
    match command.form {
        Form::Plain => {
            let line = text::line(entry, what, command.show, now, &name);
            match what.is_some() && command.show.timestamp {
                true => {
                    let micros = now / 1000;
                    format!("[{:08}.{:06}]\t{line}", micros / 1_000_000, micros % 1_000_000)
                }
                false => line,
            }
        }
        Form::Xml => xml::line(entry, what, command.show, now, &name),
        Form::Save => save::line(entry, what),
        Form::Json => json::line(entry, what, command.show, now, &name),
    }
}
