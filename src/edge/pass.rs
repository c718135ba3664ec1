//! Handing a request on to the origin, for its client alone.

use std::sync::Arc;
use std::time::Instant;

use http::header::MAX_FORWARDS;
use http::{Method, Request, Response, StatusCode};

use super::{Answer, Ask, Edge, Forwarding, upgrade};
use crate::error::Error;
use crate::flight::Provider;
use crate::key::AssetKey;
use crate::observe::metrics::{Asked, Fetched};
use crate::semantics::cache_status::Handled;
use crate::semantics::forward;
use crate::semantics::request_fields::Kind;
use crate::upstream::Reply;

impl Edge {
    /// Forwards a request to the origin, both bodies streamed; nothing is kept. It counts
    /// for its client until the body of the response has ended.
    pub(super) async fn pass(self: &Arc<Self>, mut ask: Ask, handled: Handled) -> Answer {
        let quota = match self.take_quota(self.client_of(&ask)) {
            Ok(quota) => quota,
            Err(error) => return self.refuse(ask.source, ask.method, Ok(ask.key), error),
        };
        ask.acknowledge();
        forward::strip_hop_by_hop(&mut ask.headers);
        let mut request = Request::new(std::mem::take(&mut ask.body));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = ask.key.target().into();
        // What a HEAD tells of what is stored may be learnt only if it asked as a
        // fill asks: by nothing that shapes the answer for one client.
        let learns = ask.method == Method::HEAD
            && handled != Handled::OtherSite
            && self.kind(&ask) == Kind::Common
            && !forward::is_selective(&ask.headers);
        if learns {
            *request.headers_mut() = self.order(&ask, &ask.headers, None).headers;
        } else {
            *request.headers_mut() = forward::verbatim(&ask.headers, &self.via_for(ask.version));
            Forwarding::introduce(&ask, request.headers_mut());
        }
        if let (true, Some(hops)) = (ask.method == Method::OPTIONS, forward::max_forwards(&ask.headers)) {
            request.headers_mut().insert(MAX_FORWARDS, hops.saturating_sub(1).into());
        }
        upgrade::hand_on(&ask, request.headers_mut());
        if let Some(relay) = &ask.relay {
            relay.listen(&mut request);
        }
        let began = Instant::now();
        let answer = if ask.method.is_safe() {
            self.ask_origin(request.into()).await.map(|reply| (reply, quota))
        } else {
            self.write(&ask, request, quota).await
        };
        match answer {
            Ok((reply, quota)) => {
                let proven = if ask.method == Method::GET { self.prove_pass(&ask.key, reply).await } else { Ok(reply) };
                let mut reply = match proven {
                    Ok(reply) => reply,
                    Err(error) => {
                        self.metrics.fetch(Asked::Origin, Fetched::Error, began.elapsed());
                        return self.refuse(ask.source, ask.method, Ok(ask.key), error);
                    }
                };
                if learns && reply.response.status() == StatusCode::OK {
                    self.learn(&ask.key, self.case(&ask), reply.response.headers(), ask.now);
                }
                let origin = reply.upgrade.take();
                let mut answer = self.answer_pass(&ask, handled, began, (reply, quota));
                upgrade::join(ask, origin, &mut answer);
                answer
            }
            Err(error) => self.refuse(ask.source, ask.method, Ok(ask.key), error),
        }
    }

    /// A response that is handed on: its body proves itself on its way.
    async fn prove_pass(self: &Arc<Self>, key: &AssetKey, reply: Reply) -> Result<Reply, Error> {
        let (parts, body) = reply.response.into_parts();
        let proof = self.proof(key, &Provider::Origin, parts.status, &parts.headers);
        match self.prove_unkept(body, proof).await {
            Ok(body) => Ok(Reply { response: Response::from_parts(parts, body), ..reply }),
            Err(error) => {
                self.distrust(&Provider::Origin, key, &error);
                Err(error)
            }
        }
    }
}
