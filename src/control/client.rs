//! The command line's side.

use super::protocol::{ANSWER_MAX, Lines, PATIENCE, Reply, Request, Response};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A reload of many rules takes its time.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no gateway runs with the control socket {path}: {error}")]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The socket is another user's.
    #[error("{path} is for root and the user that the gateway runs as: {error}")]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The connection broke.
    #[error("the gateway at {path} doesn't answer: {error}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The gateway says no.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// Connects to the gateway with that socket.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let path = path.to_owned();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { stream, path }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(ClientError::Forbidden { path, error })
            }
            Err(error) => Err(ClientError::Absent { path, error }),
        }
    }

    /// Asks and waits for the reply.
    pub fn ask(&mut self, request: Request) -> Result<Reply, ClientError> {
        match self.exchange(request) {
            Ok(Response::Ok(reply)) => Ok(reply),
            Ok(Response::Error(why)) => Err(ClientError::Refused(why)),
            Err(error) => Err(ClientError::Broken { path: self.path.clone(), error }),
        }
    }

    fn exchange(&mut self, request: Request) -> io::Result<Response> {
        self.stream.set_write_timeout(Some(PATIENCE))?;
        self.stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        // A gateway that turns this user away has answered and hung up already.
        let sent = self.stream.write_all(&line);
        let answer = Lines::new(ANSWER_MAX).next(&mut self.stream, |_| Ok(()));
        match (answer, sent) {
            (Ok(Some(line)), _) => Ok(serde_json::from_slice(&line)?),
            (Ok(None), Ok(())) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Err(error), Ok(())) | (_, Err(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_not_there_is_named() {
        let error = Client::connect(Path::new("/nowhere/c.sock")).unwrap_err().to_string();
        assert!(
            error.starts_with("no gateway runs with the control socket /nowhere/c.sock: No such"),
            "{error}"
        );
    }
}
