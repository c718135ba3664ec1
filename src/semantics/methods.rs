//! Request methods that clients may use (RFC 9110 §9).

use http::{HeaderValue, Method};

/// The list of allowed methods (`limits.methods`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods {
    listed: Box<[Method]>,
    allow: HeaderValue,
}

/// The reason why a method is rejected, as a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodRejection {
    /// 405: the edge knows the method, but it is not listed (RFC 9110 §15.5.6).
    NotAllowed,
    /// 501: the edge does not know the method (RFC 9110 §15.6.2).
    NotImplemented,
}

impl Methods {
    /// Builds the list from names of methods, in the order of Allow.
    ///
    /// # Errors
    /// A text that names the method which is missing (GET, HEAD), malformed, repeated, or cannot
    /// be served by a cache (CONNECT, TRACE), and the correction.
    pub fn new(names: &[String]) -> Result<Self, String> {
        let parsed = |name: &String| {
            let method = Method::from_bytes(name.as_bytes())
                .map_err(|_| format!("`{name}` is not a method; methods are tokens such as GET or PROPFIND"))?;
            match method {
                Method::CONNECT | Method::TRACE => Err(format!("{method} is not supported by a cache; remove it")),
                method => Ok(method),
            }
        };
        let listed = names.iter().map(parsed).collect::<Result<Box<[_]>, _>>()?;
        if let Some(missing) = [Method::GET, Method::HEAD].into_iter().find(|method| !listed.contains(method)) {
            return Err(format!("{missing} is missing; every server supports GET and HEAD (RFC 9110 §9.1)"));
        }
        if let Some(at) = (1..listed.len()).find(|at| listed[..*at].contains(&listed[*at])) {
            return Err(format!("{} is listed twice; remove one", listed[at]));
        }
        let allow = HeaderValue::try_from(names.join(", ")).map_err(|error| error.to_string())?;
        Ok(Self { listed, allow })
    }

    /// Accepts a listed method (RFC 9110 §9.1).
    ///
    /// # Errors
    /// [`MethodRejection`] with the status for the client if the method is not listed.
    pub fn admit(&self, method: &Method) -> Result<(), MethodRejection> {
        if self.listed.contains(method) {
            Ok(())
        } else if is_known(method) {
            Err(MethodRejection::NotAllowed)
        } else {
            Err(MethodRejection::NotImplemented)
        }
    }

    /// Returns the value of Allow (RFC 9110 §10.2.1).
    pub fn allow(&self) -> &HeaderValue {
        &self.allow
    }
}

/// Returns true for the methods of RFC 9110 §9.3 and RFC 5789, and for PURGE, which edges send
/// to each other.
fn is_known(method: &Method) -> bool {
    let standard = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    standard.contains(method) || method.as_str() == "PURGE"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(names: &[&str]) -> Result<Methods, String> {
        Methods::new(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn unlisted_methods_are_rejected_with_405_if_known_and_501_otherwise() {
        let methods = methods(&["GET", "HEAD", "PROPFIND"]).unwrap();
        assert_eq!(methods.allow(), "GET, HEAD, PROPFIND");
        let admit = |name: &str| methods.admit(&name.parse().unwrap());
        for name in ["GET", "HEAD", "PROPFIND"] {
            assert_eq!(admit(name), Ok(()), "{name}");
        }
        for name in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PURGE"] {
            assert_eq!(admit(name), Err(MethodRejection::NotAllowed), "{name}");
        }
        // Names are case-sensitive.
        for name in ["get", "Post", "MKCOL", "GETS"] {
            assert_eq!(admit(name), Err(MethodRejection::NotImplemented), "{name}");
        }
    }

    #[test]
    fn lists_that_are_incomplete_malformed_or_unsupported_are_rejected() {
        for (names, part) in [
            (vec![], "GET is missing"),
            (vec!["GET"], "HEAD is missing"),
            (vec!["GET", "HEAD", "G T"], "`G T`"),
            (vec!["GET", "HEAD", ""], "``"),
            (vec!["GET", "HEAD", "TRACE"], "TRACE is not supported"),
            (vec!["GET", "HEAD", "CONNECT"], "CONNECT is not supported"),
            (vec!["GET", "HEAD", "GET"], "GET is listed twice"),
        ] {
            let error = methods(&names).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
