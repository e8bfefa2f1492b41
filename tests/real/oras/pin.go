//go:build tools

// Package pin names the one program this module pins. `go install …@version`
// asks the proxy for a list of versions that it does not give; a module with
// its own checksums needs only the version itself.
package pin

import _ "oras.land/oras/cmd/oras"
