//! [`EtcdClient`]: requests to the JSON gateway of etcd's v3 API.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::messages::{Authenticated, Failure, escaped, parse};
use crate::body::Body;
use crate::cluster::discovery::settings::{Credentials, EtcdSettings, Password};
use crate::error::Error;
use crate::semantics::forward::MAX_HEADERS;
use crate::semantics::scheme::Scheme;
use crate::tls::TlsConnector;
use crate::upstream::{Client, Endpoint, ErrorKinds, Timeouts};

/// The largest response in bytes. The most members with the longest keys take less.
const MAX_RESPONSE: u64 = 16 * 1024 * 1024;
/// The longest line of a watch in bytes.
const MAX_LINE: usize = 1024 * 1024;
/// The largest file with a password, in bytes.
const MAX_PASSWORD: usize = 4096;

const ERRORS: ErrorKinds = ErrorKinds {
    unreachable: Error::OriginUnreachable,
    timeout: Error::OriginTimeout,
    malformed: Error::OriginGarbage,
    broken: Error::OriginBroke,
};

/// A client of one etcd, by one endpoint at a time.
pub(super) struct EtcdClient {
    /// The client for the endpoints' scheme. With TLS, it is made anew after a failure, since the
    /// files of certificates may have changed.
    http: Option<Client>,
    endpoints: Vec<Endpoint>,
    /// The index of the endpoint in use.
    current: usize,
    settings: EtcdSettings,
    timeouts: Timeouts,
    /// The longest wait for a response.
    limit: Duration,
    /// The token of the configured user, if the user has been authenticated.
    token: Option<HeaderValue>,
}

/// The failure of a request.
enum CallError {
    /// etcd does not know the token, or not any more.
    Token(String),
    Other(String),
}

impl From<String> for CallError {
    fn from(error: String) -> Self {
        Self::Other(error)
    }
}

impl CallError {
    /// Returns the error for a response with another status than 200.
    fn of(path: &str, status: StatusCode, body: &[u8]) -> Self {
        let message = serde_json::from_slice(body).map(|failure: Failure| failure.message).unwrap_or_default();
        let described = format!("{path}: status {status} {}", escaped(&message));
        let rejects_token = status == StatusCode::UNAUTHORIZED
            || message.contains("invalid auth token")
            // The users or their roles have changed.
            || message.contains("revision of auth store is old");
        if rejects_token {
            Self::Token(described)
        } else if message.contains("user name is empty") {
            Self::Other(format!("{described}; this etcd needs a user, set cluster.etcd.user"))
        } else {
            Self::Other(described)
        }
    }

    fn into_message(self) -> String {
        let (Self::Token(message) | Self::Other(message)) = self;
        message
    }
}

impl EtcdClient {
    pub(super) fn new(endpoints: &[Endpoint], settings: EtcdSettings, timeouts: Timeouts, limit: Duration) -> Self {
        Self { http: None, endpoints: endpoints.to_vec(), current: 0, settings, timeouts, limit, token: None }
    }

    /// Returns the endpoint in use.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.current]
    }

    /// Returns the number of endpoints.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// Goes to the next endpoint after a failure.
    pub(super) fn next_endpoint(&mut self) {
        self.current = (self.current + 1) % self.endpoints.len();
        if self.endpoint().scheme() == Scheme::Https {
            self.http = None;
        }
    }

    /// Sends a request and parses the whole response. Authenticates the configured user first, and
    /// once more if etcd rejects the token.
    pub(super) async fn call<T: DeserializeOwned>(&mut self, path: &str, content: &Value) -> Result<T, String> {
        let bytes = match self.exchange(path, content).await {
            Err(CallError::Token(_)) if self.settings.credentials.is_some() => {
                self.token = None;
                self.exchange(path, content).await
            }
            done => done,
        };
        parse(path, &bytes.map_err(CallError::into_message)?)
    }

    /// Sends a request with an endless response.
    pub(super) async fn stream(&mut self, path: &str, content: &Value) -> Result<Lines, String> {
        let response = match self.send(path, content).await {
            Err(CallError::Token(_)) if self.settings.credentials.is_some() => {
                self.token = None;
                self.send(path, content).await
            }
            done => done,
        };
        let response = response.map_err(CallError::into_message)?;
        Ok(Lines { body: response.into_body(), buffer: Vec::new() })
    }

    async fn exchange(&mut self, path: &str, content: &Value) -> Result<Vec<u8>, CallError> {
        let limit = self.limit;
        let exchange = async { Ok(read(self.send(path, content).await?).await?) };
        timeout(limit, exchange).await.unwrap_or_else(|_| Err(TIMED_OUT.to_owned().into()))
    }

    /// Sends a request as the configured user. Returns a response with the status 200.
    async fn send(&mut self, path: &str, content: &Value) -> Result<Response<Body>, CallError> {
        if let (Some(credentials), None) = (self.settings.credentials.clone(), &self.token) {
            self.token = Some(self.authenticate(&credentials).await?);
        }
        self.send_with_token(path, content).await
    }

    async fn authenticate(&mut self, credentials: &Credentials) -> Result<HeaderValue, CallError> {
        let path = "/v3/auth/authenticate";
        let content = json!({ "name": credentials.user, "password": password(&credentials.password)? });
        let response = self.send_with_token(path, &content).await.map_err(CallError::into_message)?;
        let Authenticated { token } = parse(path, &read(response).await?)?;
        let mut token = HeaderValue::try_from(token).map_err(|_| format!("{path}: the token is no header value"))?;
        token.set_sensitive(true);
        Ok(token)
    }

    async fn send_with_token(&mut self, path: &str, content: &Value) -> Result<Response<Body>, CallError> {
        let mut request = Request::post(Uri::default()).body(Body::from(content.to_string())).unwrap_or_default();
        *request.uri_mut() = path.parse().map_err(|error| format!("{error}"))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let (endpoint, limit) = (self.endpoint().clone(), self.limit);
        let reply = self.http()?.send(&endpoint, request, limit).await;
        let response = reply.map_err(|error| describe_error(&error))?.response;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(CallError::of(path, status, &read(response).await?)),
        }
    }

    fn http(&mut self) -> Result<&Client, String> {
        let client = match self.http.take() {
            Some(client) => client,
            None => match self.endpoint().scheme() {
                Scheme::Http => Client::new(self.timeouts, ERRORS, MAX_HEADERS),
                Scheme::Https => {
                    let tls = TlsConnector::load(&self.settings.tls).map_err(|error| error.to_string())?;
                    Client::secure(tls, self.timeouts, ERRORS, MAX_HEADERS)
                }
            },
        };
        Ok(self.http.insert(client))
    }
}

/// Reads a body of limited length.
async fn read(response: Response<Body>) -> Result<Vec<u8>, String> {
    let body = response.into_body().at_most(MAX_RESPONSE).collect().await;
    Ok(body.map_err(|error| describe_error(&error))?.to_bytes().into())
}

/// Returns the password. A file is read each time, so it may be replaced.
fn password(password: &Password) -> Result<String, String> {
    let path = match password {
        Password::Text(text) => return Ok(text.clone()),
        Password::File(path) => path,
    };
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.len() > MAX_PASSWORD {
        return Err(format!("{}: no password, or one of more than {MAX_PASSWORD} bytes", path.display()));
    }
    Ok(text.to_owned())
}

const TIMED_OUT: &str = "timeout";

/// Describes an error of the HTTP client. (The error's own text names an origin.)
fn describe_error(error: &Error) -> String {
    match error {
        Error::OriginUnreachable(cause) => format!("cannot connect: {cause}"),
        Error::OriginTimeout(_) => TIMED_OUT.to_owned(),
        Error::OriginGarbage(cause) => format!("invalid HTTP response: {cause}"),
        Error::OriginBroke(cause) => format!("response cut off: {cause}"),
        other => other.to_string(),
    }
}

/// The lines of an endless body.
pub(super) struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// Returns the next complete line. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(format!("a line of the watch is longer than {MAX_LINE} bytes"));
            }
            let frame = self.body.frame().await.ok_or_else(|| "watch ended".to_owned())?;
            if let Ok(data) = frame.map_err(|error| describe_error(&error))?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
