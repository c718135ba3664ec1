//! A scripted HTTP/1.1 origin: it delays, sends slowly, breaks off, sends wrong lengths, and counts
//! requests.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// The response to a request.
#[derive(Clone)]
pub struct Script {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    framing: Framing,
    delay: Duration,
    cut_at: Option<usize>,
    /// Sends 102 at once, as a peer does.
    acknowledges: bool,
    /// Holds responses back.
    hold: Option<Gate>,
    /// Holds bodies back.
    gate: Option<Gate>,
    ranges: bool,
    raw: Option<Bytes>,
    /// Sends the value of this request header as the body.
    echoes: Option<String>,
    /// Sends this status if the request lacks this header.
    needs: Option<(String, u16)>,
    /// Sends 304 to a conditional request with this entity tag.
    validates: Option<String>,
    /// The lifetime of a script that states none.
    lifetime: Lifetime,
    /// Sends another body for each target.
    by_target: bool,
    /// In bytes per second.
    pace: Option<f64>,
}

/// Returns the body that [`Script::body_per_target`] sends for `target`.
pub fn body_per_target(target: &str) -> Bytes {
    target.bytes().cycle().take(1000).collect()
}

/// The lifetime of a script that states none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    /// A year, if the name [is lasting](is_lasting).
    ByName,
    AsStated,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(Option<usize>),
    Chunked,
    UntilClose,
    /// No body and no length, as in a 304.
    Nothing,
}

/// Holds responses, or bytes of a body, back until the test releases more of them.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self, count: usize) {
        self.0.add_permits(count);
    }
}

impl Script {
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
            framing: Framing::Length(None),
            delay: Duration::ZERO,
            cut_at: None,
            acknowledges: false,
            hold: None,
            gate: None,
            ranges: false,
            raw: None,
            validates: None,
            echoes: None,
            needs: None,
            lifetime: Lifetime::ByName,
            by_target: false,
            pace: None,
        }
    }

    /// Sends another body for each target.
    #[allow(dead_code)] // for tests/faults
    pub fn body_per_target() -> Self {
        Self { by_target: true, ..Self::ok("") }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok(format!("status {status}\n")) }
    }

    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Sends exactly these bytes.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self { raw: Some(bytes.into()), ..Self::ok("") }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    pub fn chunked(self) -> Self {
        Self { framing: Framing::Chunked, ..self }
    }

    pub fn until_close(self) -> Self {
        Self { framing: Framing::UntilClose, ..self }
    }

    /// Sends a Content-Length that differs from the length of the body.
    pub fn claim_length(self, length: usize) -> Self {
        Self { framing: Framing::Length(Some(length)), ..self }
    }

    /// Closes the connection after so many bytes of the body.
    pub fn cut_at(self, bytes: usize) -> Self {
        Self { cut_at: Some(bytes), ..self }
    }

    /// Sends 102 at once, as a peer that begins to answer does.
    #[allow(dead_code)] // for tests/it
    pub fn acknowledged(self) -> Self {
        Self { acknowledges: true, ..self }
    }

    /// Sends nothing before `gate` releases a response.
    pub fn hold_response(self, gate: &Gate) -> Self {
        Self { hold: Some(gate.clone()), ..self }
    }

    /// Sends the bytes of the body that `gate` releases.
    pub fn hold_body(self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }

    /// Varies by a request header, and sends the value of that header as the body.
    pub fn varies_by(self, field: &str) -> Self {
        Self { echoes: Some(field.to_owned()), ..self }.header("vary", field)
    }

    /// Like [`varies_by`](Self::varies_by), without a Vary header.
    #[allow(dead_code)] // for tests/faults
    pub fn echoes(self, field: &str) -> Self {
        Self { echoes: Some(field.to_owned()), ..self }
    }

    /// Sends a bare response with `status` to a request without the header `field`.
    #[allow(dead_code)] // for tests/faults
    pub fn requires_header(self, field: &str, status: u16) -> Self {
        Self { needs: Some((field.to_owned(), status)), ..self }
    }

    /// Sends an entity tag, and 304 to a conditional request with that tag.
    pub fn etag(self, tag: &str) -> Self {
        Self { validates: Some(tag.to_owned()), ..self }.header("etag", tag)
    }

    /// Sends the body at this rate, in bytes per second.
    #[allow(dead_code)] // for tests/faults
    pub fn pace(self, rate: f64) -> Self {
        Self { pace: Some(rate), ..self }
    }

    /// States no lifetime, even under a name that [is lasting](is_lasting).
    #[allow(dead_code)] // for tests/faults
    pub fn without_lifetime(self) -> Self {
        Self { lifetime: Lifetime::AsStated, ..self }
    }

    fn states_no_lifetime(&self) -> bool {
        let states = |(name, _): &(String, String)| {
            ["cache-control", "cdn-cache-control", "expires"].iter().any(|field| name.eq_ignore_ascii_case(field))
        };
        self.status == 200 && self.lifetime == Lifetime::ByName && !self.headers.iter().any(states)
    }

    /// Supports `Range: bytes=N-`.
    pub fn with_ranges(self) -> Self {
        Self { ranges: true, ..self }
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the name of the edge that sent the request: the last one in Via.
    #[allow(dead_code)] // for tests/faults
    pub fn via(&self) -> &str {
        let via = self.headers.iter().rfind(|(field, _)| field.eq_ignore_ascii_case("via"));
        via.and_then(|(_, via)| via.rsplit(' ').next()).unwrap_or_default()
    }
}

#[derive(Default)]
struct State {
    scripts: Mutex<HashMap<String, VecDeque<Script>>>,
    seen: Mutex<Vec<Seen>>,
    arrived: watch::Sender<usize>,
    connections: AtomicUsize,
    rejects_peeks: AtomicBool,
}

pub struct Origin {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Origin {
    pub async fn start() -> Self {
        Self::at([127, 0, 0, 1].into()).await
    }

    /// Starts an origin on a port of `address`.
    pub async fn at(address: IpAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let accepting = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let state = Arc::clone(&accepting);
                tokio::spawn(async move {
                    // The edge may close the connection at any time.
                    let _ = serve(stream, state).await;
                });
            }
        });
        Self { address, state }
    }

    /// Answers `path` by `script` from now on; `*` stands for every other path.
    pub fn script(&self, path: &str, script: Script) {
        self.scripts(path, [script]);
    }

    /// Answers `path` by these scripts in turn from now on; the last one stays.
    pub fn scripts(&self, path: &str, scripts: impl IntoIterator<Item = Script>) {
        self.state.scripts.lock().unwrap().insert(path.to_owned(), scripts.into_iter().collect());
    }

    /// Answers every peek with a 504, as a peer that does not store the response.
    #[allow(dead_code)] // for tests/it
    pub fn reject_peeks(&self) {
        self.state.rejects_peeks.store(true, Ordering::Relaxed);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Returns the number of requests for `path`.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.target == path).count()
    }

    /// Returns the number of connections that were accepted.
    #[allow(dead_code)] // for tests/it
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Waits until this many requests have arrived in all.
    pub async fn arrived(&self, requests: usize) {
        let mut arrived = self.state.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived >= requests).await.unwrap();
    }

    pub fn url(&self) -> http::Uri {
        format!("http://{}", self.address).parse().unwrap()
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read_request(&mut stream).await? {
        if seen.header("peerage-peek").is_some() && state.rejects_peeks.load(Ordering::Relaxed) {
            stream.get_mut().write_all(b"HTTP/1.1 504 Scripted\r\ncontent-length: 0\r\n\r\n").await?;
            continue;
        }
        let script = {
            let mut scripts = state.scripts.lock().unwrap();
            let known = if scripts.contains_key(&seen.target) { seen.target.as_str() } else { "*" };
            let turns = scripts.get_mut(known);
            turns.and_then(|turns| if turns.len() > 1 { turns.pop_front() } else { turns.front().cloned() })
        };
        let (method, range) = (seen.method.clone(), seen.header("range").map(str::to_owned));
        let known = seen.header("if-none-match").map(str::to_owned);
        let headers = seen.clone();
        state.seen.lock().unwrap().push(seen);
        state.arrived.send_modify(|arrived| *arrived += 1);
        let mut script = script.unwrap_or_else(|| Script::status(404));
        if let Some((field, status)) = &script.needs
            && headers.header(field).is_none()
        {
            script = Script { hold: script.hold.clone(), ..Script::status(*status) };
        }
        if script.by_target {
            script.body = body_per_target(&headers.target);
        }
        if let Some(field) = &script.echoes {
            script.body = headers.header(field).unwrap_or("nothing").to_owned().into();
        }
        if known.is_some() && script.validates == known {
            script = Script { status: 304, body: Bytes::new(), framing: Framing::Nothing, ..script };
        }
        if script.states_no_lifetime() && is_lasting(&headers.target) {
            script = script.header("cache-control", "public, max-age=31536000, immutable");
        }
        if !respond(stream.get_mut(), &script, &method, range.as_deref()).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns true for names such as `/logo-0492830483.png`. The origin sends `immutable` for them if
/// the script states no lifetime, as the development origin does.
fn is_lasting(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let parts: Vec<_> = path.rsplit('/').next().unwrap_or_default().split(['-', '.']).collect();
    let is_hash = |part: &&str| part.len() >= 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.len() > 2 && parts[1..parts.len() - 1].iter().any(is_hash)
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut seen = Seen { method, target, headers, body: Vec::new() };
    if let Some(length) = seen.header("content-length") {
        seen.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut seen.body).await?;
    } else if seen.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).await?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await?;
            if size == 0 {
                break;
            }
            seen.body.extend_from_slice(&chunk[..size]);
        }
    }
    Ok(Some(seen))
}

/// Sends the scripted response. Returns true if the connection can be used again.
async fn respond(stream: &mut TcpStream, script: &Script, method: &str, range: Option<&str>) -> std::io::Result<bool> {
    if script.acknowledges {
        stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await?;
    }
    tokio::time::sleep(script.delay).await;
    if let Some(Gate(gate)) = &script.hold {
        gate.acquire().await.unwrap().forget();
    }
    if let Some(raw) = &script.raw {
        stream.write_all(raw).await?;
        return Ok(false);
    }
    let mut body = script.body.clone();
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", script.status);
    let from = range
        .filter(|_| script.ranges)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    if let Some(from) = from {
        head = format!("HTTP/1.1 206 Scripted\r\ncontent-range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len());
        body = body.slice(from..);
    }
    for (name, value) in &script.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match script.framing {
        Framing::Length(claimed) => head += &format!("content-length: {}\r\n", claimed.unwrap_or(body.len())),
        Framing::Chunked => head += "transfer-encoding: chunked\r\n",
        Framing::UntilClose => head += "connection: close\r\n",
        Framing::Nothing => {}
    }
    stream.write_all((head + "\r\n").as_bytes()).await?;
    if method == "HEAD" {
        return Ok(true);
    }
    let end = script.cut_at.unwrap_or(body.len());
    let mut sent = 0;
    let began = Instant::now();
    while sent < end {
        if let Some(pace) = script.pace {
            #[allow(clippy::cast_precision_loss)] // no body is so long
            let due = Duration::from_secs_f64(sent as f64 / pace);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        let mut next = (end - sent).min(64 * 1024);
        if let Some(Gate(gate)) = &script.gate {
            // As many bytes as were released, and at least one.
            let open = gate.available_permits().clamp(1, next);
            gate.acquire_many(u32::try_from(open).unwrap()).await.unwrap().forget();
            next = open;
        }
        let piece = &body[sent..sent + next];
        if script.framing == Framing::Chunked {
            stream.write_all(format!("{next:x}\r\n").as_bytes()).await?;
            stream.write_all(piece).await?;
            stream.write_all(b"\r\n").await?;
        } else {
            stream.write_all(piece).await?;
        }
        sent += next;
    }
    if script.cut_at.is_some() || script.framing == Framing::UntilClose {
        return Ok(false);
    }
    if script.framing == Framing::Chunked {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(!matches!(script.framing, Framing::Length(Some(claimed)) if claimed != body.len()))
}
