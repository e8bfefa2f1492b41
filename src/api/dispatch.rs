//! From a request to its handler, and back with what every answer carries.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    Api, access_log::AccessRecord, blob, body::Body, error::Error, listener::Service, manifest,
    referrers, request::Call, route::Route, tags, upload,
};

/// Header by which docker clients know a version 2 registry.
static API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What a handler makes of a request.
pub(super) type Answer = Result<Response<Body>, Error>;

impl Service for Api {
    /// Answers one request to the registry.
    async fn call(self: Arc<Self>, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
        let mut record = AccessRecord::begin(peer, &request);
        let in_flight = self.metrics.begin();
        let answer = self.route(peer, request, &mut record).await;
        let mut response = answer.unwrap_or_else(Error::into_response);
        let headers = response.headers_mut();
        headers.insert(&API_VERSION, HeaderValue::from_static("registry/2.0"));
        for (name, value) in &self.config.headers {
            headers.insert(name, value.clone());
        }
        record.answered(response.status(), in_flight);
        response.body_mut().log_at_end(record);
        response
    }
}

impl Api {
    async fn route(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
        record: &mut AccessRecord,
    ) -> Answer {
        let path = request.uri().path();
        // Load balancers like to ask this, and docker-registry answers it so.
        if path == "/" && request.method() == Method::GET {
            return Ok(Response::new(Body::empty()));
        }
        let route = Route::parse(path)?;
        record.routed(route.name());
        let call = Call::new(self, peer, request);
        self.dispatch(route, call).await
    }

    async fn dispatch(&self, route: Route, call: Call) -> Answer {
        let method = call.method.clone();
        let allowed = route.allowed();
        match (route, method) {
            (Route::Ping, Method::GET | Method::HEAD) => Ok(ping()),
            (Route::Catalog, Method::GET | Method::HEAD) => tags::catalog(self, &call).await,
            (Route::Tags(name), Method::GET | Method::HEAD) => tags::list(self, name, &call).await,
            (Route::Manifest(name, reference), Method::GET | Method::HEAD) => {
                manifest::get(self, name, (&reference, &call)).await
            }
            (Route::Manifest(name, reference), Method::PUT) => {
                manifest::put(self, name, reference, call).await
            }
            (Route::Manifest(name, reference), Method::DELETE) => {
                manifest::delete(self, name, reference).await
            }
            (Route::Blob(name, digest), Method::GET) => {
                blob::get(self, name, (&digest, &call)).await
            }
            (Route::Blob(name, digest), Method::HEAD) => {
                blob::head(self, name, (&digest, &call)).await
            }
            (Route::Blob(name, digest), Method::DELETE) => blob::delete(self, name, digest).await,
            (Route::Uploads(name), Method::POST) => upload::begin(self, name, call).await,
            (Route::Upload(name, position), Method::GET | Method::HEAD) => {
                upload::status(self, name, (position, &call)).await
            }
            (Route::Upload(name, position), Method::PATCH) => {
                upload::append(self, name, position, call).await
            }
            (Route::Upload(name, position), Method::PUT) => {
                upload::finish(self, name, position, call).await
            }
            (Route::Upload(name, position), Method::DELETE) => {
                upload::cancel(self, name, position).await
            }
            (Route::Referrers(name, digest), Method::GET | Method::HEAD) => {
                referrers::list(self, name, (&digest, &call)).await
            }
            _ => Err(Error::Method { allowed }),
        }
    }
}

fn ping() -> Response<Body> {
    json_response("{}".to_owned(), "application/json")
}

/// An answer with a JSON body.
pub(super) fn json_response(json: String, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(json));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// An answer with a status and no body.
pub(super) fn empty_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
