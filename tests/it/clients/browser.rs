//! A browser without a window, driven by the `DevTools` protocol over a pipe.

use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::harness::within;

/// How long a busy machine may take for a step, in seconds.
const PATIENCE: u64 = 90;

/// What it is told when it starts; `profile` is the folder of what it keeps.
pub fn flags(profile: &Path) -> impl Iterator<Item = String> + Clone {
    let flags = [
        "--headless=new",
        // Its sandbox needs rights that few containers have.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        // Nothing but the page goes over the network, and nothing waits for a desktop.
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-default-browser-check",
        "--no-proxy-server",
        "--password-store=basic",
    ];
    flags.into_iter().map(str::to_owned).chain([format!("--user-data-dir={}", profile.display())])
}

/// A browser with one page.
pub struct Browser {
    child: Child,
    /// Its many processes have one standard error, which ends with the last of them.
    all_gone: JoinHandle<()>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The page's.
    session: Value,
    calls: u64,
    /// What happened, and was not taken yet.
    events: Vec<Value>,
}

impl Browser {
    /// What is kept from one visit to the next is in the folder `profile`.
    pub async fn start(program: &str, profile: &Path) -> Self {
        // Its pipe is to be descriptors 3 and 4, which only a shell gives without `unsafe`.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 0</dev/null 1>&2", program]);
        command.args(flags(profile)).args(["--remote-debugging-pipe", "about:blank"]).env("HOME", profile);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut said = child.stderr.take().unwrap();
        let all_gone = tokio::spawn(async move {
            tokio::io::copy(&mut said, &mut tokio::io::sink()).await.unwrap();
        });
        let mut browser = Self { child, all_gone, input, output, session: Value::Null, calls: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach).await["sessionId"].take();
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Goes to `url`; what happened until all of the page was there.
    pub async fn visit(&mut self, url: &str) -> Vec<Value> {
        self.load("Page.navigate", json!({ "url": url })).await
    }

    /// Loads the page again, and nothing of it from the browser's own cache.
    pub async fn reload_hard(&mut self) -> Vec<Value> {
        self.load("Page.reload", json!({ "ignoreCache": true })).await
    }

    /// Begins to load a page, and waits for it and for what its script asks for.
    async fn load(&mut self, method: &str, parameters: Value) -> Vec<Value> {
        self.events.clear();
        self.call(method, parameters).await;
        self.until(|events| events.iter().any(|event| event["method"] == "Page.loadEventFired")).await;
        self.until(all_ended).await;
        std::mem::take(&mut self.events)
    }

    /// The value of an expression, in the page; of a promise, what it comes to.
    pub async fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut result = self.call("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Ends it, as its user would: what it keeps is written, and nobody writes any more.
    pub async fn close(mut self) {
        self.session = Value::Null;
        self.call("Browser.close", json!({})).await;
        within(PATIENCE, self.child.wait()).await.unwrap();
        within(PATIENCE, self.all_gone).await.unwrap();
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut call = json!({ "id": self.calls, "method": method, "params": parameters });
        if !self.session.is_null() {
            call["sessionId"] = self.session.clone();
        }
        self.input.write_all(format!("{call}\0").as_bytes()).await.unwrap();
        loop {
            let mut message = self.next().await;
            if message["id"] == self.calls {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    async fn until(&mut self, enough: impl Fn(&[Value]) -> bool) {
        while !enough(&self.events) {
            let event = self.next().await;
            self.events.push(event);
        }
    }

    async fn next(&mut self) -> Value {
        let mut message = Vec::new();
        within(PATIENCE, self.output.read_until(0, &mut message)).await.unwrap();
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&message).unwrap()
    }
}

/// What a browser says of the requests of a page, one event after another.
fn of_requests<'a>(events: &'a [Value], method: &str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["method"] == method).map(|event| &event["params"])
}

/// Whether every request that the page began has ended, in whatever way.
fn all_ended(events: &[Value]) -> bool {
    let ended: HashSet<_> = ["Network.loadingFinished", "Network.loadingFailed"]
        .into_iter()
        .flat_map(|method| of_requests(events, method))
        .map(|event| event["requestId"].as_str())
        .collect();
    let answered: HashSet<_> =
        of_requests(events, "Network.responseReceived").map(|event| event["requestId"].as_str()).collect();
    of_requests(events, "Network.requestWillBeSent").all(|sent| {
        let id = sent["requestId"].as_str();
        // The end of an answer without a body is told when nobody holds it any more.
        ended.contains(&id) || sent["request"]["method"] == "HEAD" && answered.contains(&id)
    })
}

/// The paths of what the browser had itself, in order, each once: it may want
/// an image for its tab too.
pub fn from_its_cache(events: &[Value]) -> Vec<String> {
    let responses = of_requests(events, "Network.responseReceived").map(|event| &event["response"]);
    let kept = responses.filter(|response| response["fromDiskCache"] == true);
    let url = |response: &Value| response["url"].as_str().unwrap().parse::<http::Uri>().unwrap();
    let mut paths: Vec<_> = kept.map(|response| url(response).path().to_owned()).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// What the page's author would see as errors.
pub fn errors(events: &[Value]) -> Vec<&Value> {
    let is_error = |event: &&Value| match event["method"].as_str().unwrap_or_default() {
        "Runtime.exceptionThrown" => true,
        // The browser itself breaks off when it wants no more, as of a HEAD.
        "Network.loadingFailed" => event["params"]["canceled"] != true,
        "Runtime.consoleAPICalled" => event["params"]["type"] == "error",
        "Log.entryAdded" => event["params"]["entry"]["level"] == "error",
        _ => false,
    };
    events.iter().filter(is_error).collect()
}
