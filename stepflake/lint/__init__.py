"""The checks of `stepflake lint`: of state machine definitions (Amazon States Language), of the template that
deploys them, and of what belongs to a workflow.

They find mistakes before a run does: cfn-lint does not read the files that DefinitionS3Location names, AWS
answers only after a deployment, and the local engine accepts invalid definitions and ignores some fields.
"""
