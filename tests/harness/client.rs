use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::Reply;

/// How long a server may take to answer before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A blocking Redis client that hides nothing: arguments of any bytes, errors as [`Reply::Error`], no
/// reconnecting, no re-sending. A test thus knows what was sent, how often, and what came back.
pub struct Client {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
    /// `FLASH.X key ...` goes as `FCALL flash_x 1 key ...`.
    functions: bool,
}

impl Client {
    /// Connects to a server on the loopback address.
    pub fn connect(port: u16) -> io::Result<Client> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream: BufReader::with_capacity(64 * 1024, stream), request: Vec::new(), functions: false })
    }

    /// Calls the library of functions where the module's commands are asked for.
    pub fn to_functions(mut self) -> Client {
        self.functions = true;
        self
    }

    /// Speaks RESP3 from now on.
    #[track_caller]
    pub fn resp3(mut self) -> Client {
        let hello = self.call(&["HELLO", "3"]);
        assert!(!hello.is_error(), "HELLO 3: {hello}");
        self
    }

    /// Sends a command and returns its answer, a RESP error too.
    ///
    /// # Panics
    /// If the connection fails: where a test kills the server it uses [`Client::try_call`].
    #[track_caller]
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Reply {
        match self.try_call(arguments) {
            Ok(reply) => reply,
            Err(error) => panic!("{}: {error}", printable(arguments)),
        }
    }

    /// Sends a command and returns its answer, or how the connection failed.
    pub fn try_call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Reply> {
        self.send(arguments)?;
        self.receive()
    }

    /// Sends a command that must not be answered by an error.
    #[track_caller]
    pub fn ok<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Reply {
        let reply = self.call(arguments);
        assert!(!reply.is_error(), "{}: {reply}", printable(arguments));
        reply
    }

    /// [`Client::call`] for a line of words that hold no blanks: `client.line("FLASH.INFO sale:1")`.
    #[track_caller]
    pub fn line(&mut self, line: &str) -> Reply {
        self.call(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Sends without waiting for the answer; [`Client::receive`] gets the answers in order.
    pub fn send<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<()> {
        self.send_all(&[arguments])
    }

    /// Sends several commands in one write: a pipeline.
    pub fn send_all<A: AsRef<[u8]>>(&mut self, commands: &[impl AsRef<[A]>]) -> io::Result<()> {
        self.request.clear();
        for command in commands {
            let mut arguments: Vec<&[u8]> = command.as_ref().iter().map(AsRef::as_ref).collect();
            let function = if self.functions { function_of(arguments[0]) } else { None };
            if let Some((function, keys)) = &function {
                arguments.splice(..1, [b"FCALL".as_slice(), function, keys]);
            }
            write!(self.request, "*{}\r\n", arguments.len())?;
            for argument in arguments {
                write!(self.request, "${}\r\n", argument.len())?;
                self.request.extend_from_slice(argument);
                self.request.extend_from_slice(b"\r\n");
            }
        }
        self.stream.get_mut().write_all(&self.request)
    }

    /// Waits for the next answer, or message.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let line = self.read_line()?;
        let Some((&kind, rest)) = line.as_bytes().split_first() else {
            return Err(garbage(&line));
        };
        let rest = std::str::from_utf8(rest).map_err(|_| garbage(&line))?;
        let number = || rest.parse::<i64>().map_err(|_| garbage(&line));
        Ok(match kind {
            b'+' => Reply::Status(rest.to_owned()),
            b'-' => Reply::Error(rest.to_owned()),
            b':' => Reply::Integer(number()?),
            b',' => Reply::Double(rest.parse().map_err(|_| garbage(&line))?),
            b'#' => Reply::Boolean(rest == "t"),
            b'_' => Reply::Nil,
            b'(' => Reply::Status(rest.to_owned()),
            b'$' | b'=' | b'!' => match number()? {
                -1 => Reply::Nil,
                length => self.receive_bytes(kind, length as usize)?,
            },
            b'*' | b'~' => match number()? {
                -1 => Reply::Nil,
                count => Reply::Array(self.receive_many(count)?),
            },
            b'>' => {
                let count = number()?;
                Reply::Push(self.receive_many(count)?)
            }
            b'%' => {
                let mut pairs = Vec::new();
                for _ in 0..number()? {
                    pairs.push((self.receive()?, self.receive()?));
                }
                Reply::Map(pairs)
            }
            _ => return Err(garbage(&line)),
        })
    }

    /// How long [`Client::receive`] waits; the usual 30 s suit all but tests of silence.
    pub fn set_patience(&mut self, patience: Duration) {
        self.stream.get_mut().set_read_timeout(Some(patience)).expect("a positive duration is a valid timeout");
    }

    fn receive_many(&mut self, count: i64) -> io::Result<Vec<Reply>> {
        (0..count).map(|_| self.receive()).collect()
    }

    fn receive_bytes(&mut self, kind: u8, length: usize) -> io::Result<Reply> {
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(match kind {
            b'!' => Reply::Error(String::from_utf8_lossy(&bytes).into_owned()),
            // A verbatim string begins with its format, as in `txt:`.
            b'=' => Reply::Bytes(bytes.split_off(4)),
            _ => Reply::Bytes(bytes),
        })
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
        }
    }
}

/// The function of a command of the module, and how many keys it takes.
fn function_of(command: &[u8]) -> Option<(Vec<u8>, &'static [u8])> {
    let name = command.strip_prefix(b"FLASH.")?;
    let keys: &[u8] = if [b"SHARDS", b"ROUTE".as_slice()].contains(&name) { b"0" } else { b"1" };
    Some(([b"flash_", name.to_ascii_lowercase().as_slice()].concat(), keys))
}

fn garbage(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no RESP: {line:?}"))
}

fn printable<A: AsRef<[u8]>>(arguments: &[A]) -> String {
    let words: Vec<String> = arguments.iter().map(|argument| argument.as_ref().escape_ascii().to_string()).collect();
    words.join(" ")
}
