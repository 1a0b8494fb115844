//! Commands for expected connections.

use super::{End, NAME, Run, VERSION, failed, odd, other};
use crate::conntrack::options::{Command, Form, Verb};
use crate::conntrack::wire::Which;
use crate::conntrack::{Ask, Expected, Fault, Tell, expected};
use std::io;

impl Run<'_> {
    /// Does a command, and says to how many.
    pub(super) fn expectations(&mut self, command: &Command, verb: Verb) -> Result<u64, End> {
        let which = match verb {
            Verb::Event => return self.watch(command),
            Verb::Create => return self.expect(command),
            Verb::Get | Verb::Delete => {
                let Some((protocol, side, _)) = command.exact_side() else {
                    return Err(failed(Fault::Invalid, None));
                };
                Which::Tuple(protocol, side)
            }
            Verb::Flush => Which::All,
            // As the original: IPv6 has to be asked for.
            _ => Which::Family(command.family.unwrap_or(4)),
        };
        let delete = matches!(verb, Verb::Delete | Verb::Flush);
        let Tell::Expected(expected) = self.ask(Ask::Expected { which, delete })? else {
            return Err(odd());
        };
        let count = expected.len() as u64;
        match verb {
            Verb::Count => writeln!(self.out, "{count}")?,
            Verb::Flush => {
                let done = "expectation table has been emptied.";
                writeln!(self.err, "{NAME} v{VERSION} (conntrack-tools): {done}")?;
            }
            Verb::Get | Verb::Delete if count == 0 => return Err(failed(Fault::Absent, None)),
            Verb::List | Verb::Get => self.print_expected(command, &expected)?,
            // The original doesn't count what it deletes, and ends as if there were nothing.
            Verb::Delete => return Ok(0),
            _ => {}
        }
        Ok(count)
    }

    /// `-I expect`. The original's last release sends it with a protocol that no kernel takes.
    fn expect(&mut self, command: &Command) -> Result<u64, End> {
        let expected = command.expected().ok_or_else(|| failed(Fault::Invalid, None))?;
        match self.ask(Ask::Expect { expected: Box::new(expected) })? {
            Tell::Done => Ok(1),
            Tell::Fault(Fault::Absent) => {
                Err(other("Operation failed: master conntrack not found"))
            }
            Tell::Fault(fault) => Err(failed(fault, None)),
            _ => Err(odd()),
        }
    }

    fn print_expected(&mut self, command: &Command, all: &[Expected]) -> io::Result<()> {
        let xml = command.form == Form::Xml && !all.is_empty();
        if xml {
            self.out.write_all(expected::HEAD.as_bytes())?;
        }
        for one in all {
            if command.show.timestamp && command.form == Form::Plain {
                let micros = crate::worker::unix_nanos() / 1000;
                write!(self.out, "[{:<8}.{:<6}]\t", micros / 1_000_000, micros % 1_000_000)?;
            }
            let line = match command.form {
                Form::Plain | Form::Save => one.line(),
                Form::Xml => one.xml(),
                Form::Json => one.json(),
            };
            writeln!(self.out, "{line}")?;
        }
        if xml {
            self.out.write_all(expected::TAIL.as_bytes())?;
        }
        Ok(())
    }
}
