"""What a million rows cost on AWS, computed from what one batch used."""

from dataclasses import dataclass

# us-east-1, on demand, without free tiers; read from the services' price pages in November 2026.
API_REQUEST = 3.50e-6
LAMBDA_REQUEST = 0.20e-6
LAMBDA_GB_SECOND = 0.0000133334  # arm64
STATE_TRANSITION = 25e-6
S3_PUT = 5e-6
S3_GET = 0.40e-6
DYNAMODB_WRITE = 0.625e-6  # for each KB
DYNAMODB_READ = 0.125e-6  # for each 4 KB


@dataclass(frozen=True)
class Usage:
    """What AWS counts of one batch."""

    rows: int
    api: float
    invocations: float
    gb_seconds: float
    transitions: float = 0
    s3_puts: float = 0
    s3_gets: float = 0
    dynamodb_writes: float = 0
    dynamodb_reads: float = 0
    other: float = 0

    @property
    def requests(self) -> float:
        """Requests to AWS services: API, Lambda, S3, DynamoDB items and Step Functions calls."""
        return self.api + self.invocations + self.s3_puts + self.s3_gets + self.other

    @property
    def dollars(self) -> float:
        """What the batch costs."""
        return (
            self.api * API_REQUEST
            + self.invocations * LAMBDA_REQUEST
            + self.gb_seconds * LAMBDA_GB_SECOND
            + self.transitions * STATE_TRANSITION
            + self.s3_puts * S3_PUT
            + self.s3_gets * S3_GET
            + self.dynamodb_writes * DYNAMODB_WRITE
            + self.dynamodb_reads * DYNAMODB_READ
        )

    def per_million(self, count: float) -> float:
        """A count of this batch, scaled to a million rows."""
        return count * 1_000_000 / self.rows
