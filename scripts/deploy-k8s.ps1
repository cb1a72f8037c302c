#!/usr/bin/env pwsh
#Requires -Version 7.3
# Deploy the service to a cluster: scripts/deploy-k8s.ps1 --help
$ErrorActionPreference = 'Stop'
# A name on PATH can be a stub that only offers to install Python: each is tried, and its exit status decides.
$PSNativeCommandUseErrorActionPreference = $false
foreach ($Name in 'python3', 'python', 'py') {
    if (-not (Get-Command $Name -CommandType Application -ErrorAction SilentlyContinue)) { continue }
    & $Name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> $null
    if ($LASTEXITCODE -eq 0) {
        & $Name (Join-Path $PSScriptRoot 'deploy.py') $args
        exit $LASTEXITCODE
    }
}
[Console]::Error.WriteLine('deploy-k8s: no Python 3.11 or later on PATH; install it')
exit 1
