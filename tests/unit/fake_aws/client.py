"""Clients as `boto3.client` makes them, over services in memory."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from botocore import xform_name
from botocore.errorfactory import ClientExceptionsFactory
from botocore.exceptions import ParamValidationError
from botocore.handlers import handle_copy_source_param
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel
from botocore.paginate import Paginator, PaginatorModel
from botocore.validate import ParamValidator

from tests.unit.fake_aws.faults import AwsError, Call, Faults

_loader = Loader()
_exceptions = ClientExceptionsFactory()
_validator = ParamValidator()


class FakeClient:
    """A service's operations by their Python names, its paginators and its exceptions.

    Parameters are validated by AWS's model of the service, as botocore does it; errors are raised as the
    model's exceptions. `service`: has a method for each operation that is used here, with the parameters that
    are used here as its keywords.
    """

    def __init__(self, name: str, service: Callable[[], Any], faults: Callable[[], Faults]) -> None:
        self._name, self._service, self._faults = name, service, faults
        self.exceptions = _exceptions.create_client_exceptions(_model(name))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        operation = operations_of(self._name).get(method)
        if operation is None:
            raise AttributeError(f"{self._name} has no operation {method}")
        return partial(self._call, method, operation)

    def get_paginator(self, method: str) -> "Paginator[Any]":
        """Botocore's own paginator, by AWS's model of the operation's pages."""
        pages = PaginatorModel(_loader.load_service_model(self._name, "paginators-1"))
        operation = operations_of(self._name)[method]
        return Paginator(getattr(self, method), pages.get_paginator(operation.name), operation)

    def _call(self, method: str, operation: OperationModel, /, **parameters: Any) -> dict[str, Any]:
        if "CopySource" in parameters:
            handle_copy_source_param(parameters)  # botocore takes a dict too, and sends a quoted path
        assert operation.input_shape
        report = _validator.validate(parameters, operation.input_shape)
        if report.has_errors():
            raise ParamValidationError(report=report.generate_report())
        action = partial(getattr(self._service(), method), **parameters)
        try:
            answer = self._faults().carry_out(Call(self._name, method, parameters), action) or {}
        except AwsError as error:
            exception: Any = self.exceptions.from_code(error.code)
            raise exception(error.response(), operation.name) from None
        known = operation.output_shape.members if operation.output_shape else {}
        assert set(answer) <= set(known), f"{operation.name} answers no {set(answer) - set(known)}"
        return {**answer, "ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0}}


@cache
def _model(service: str) -> ServiceModel:
    return ServiceModel(_loader.load_service_model(service, "service-2"), service_name=service)


@cache
def operations_of(service: str) -> dict[str, OperationModel]:
    model = _model(service)
    return {xform_name(name): model.operation_model(name) for name in model.operation_names}
